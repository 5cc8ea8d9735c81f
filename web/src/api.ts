// The page's way to `uvbond ui`. A session has two secrets: a cookie, which this
// script cannot see, and a key, which is kept for this origin alone.

const keyName = 'uvbond-key';

export interface Claim {
  state?: string;
  error?: string;
  at: number;
}

export interface VM {
  name: string;
  host: string;
  phase: string;
  state?: string;
  at?: number;
  since?: number;
  receipt?: string;
  command?: string;
  instance?: number;
  ended: boolean;
  running?: string;
  memory: number;
  cpus: number;
  screen: boolean;
  claim?: Claim;
  problem?: string;
}

export interface Grant {
  name: string;
  host: string;
  state?: string;
  at?: number;
}

export interface State {
  vms: VM[];
  grants: Grant[];
  now: number;
}

export interface Detail {
  name: string;
  id: string;
  host: string;
  phase: string;
  created: number;
  instance: number;
  memory: number;
  cpus: number;
  firmware: string;
  machine: string;
  fingerprint: string;
  disks: { name: string; bus: string; length: number; read_only: boolean; file: string }[];
  nics: { model: string; mac: string }[];
  commands: { command: string; means: string }[];
}

export interface Call {
  command: string;
  arguments?: string;
  verdict: string;
  detail?: string;
}

export interface Receipt {
  nonce: string;
  command: string;
  instance?: number;
  verdict: string;
  class?: string;
  reason?: string;
  state: string;
  at: number;
  calls: Call[];
  records: number;
  head: string;
}

export interface Hypercall {
  command: string;
  arguments?: string;
  answered: boolean;
  class?: string;
  accepted: boolean;
  why?: string;
  drawing?: string;
}

export interface Result {
  outcome: string;
  state?: string;
  error?: string;
  hint?: string;
  receipt?: Receipt;
}

export interface Event {
  event: 'begin' | 'hypercall' | 'end';
  automaton?: string;
  drawing?: string;
  hypercall?: Hypercall;
  result?: Result;
}

export interface Entry {
  id: string;
  at: number;
  kind: string;
  by: string;
  who?: string;
  title: string;
  refused: boolean;
  reading?: boolean;
  seq: number;
  count?: string;
  fields?: Record<string, string>;
  steps?: { seq: number; at: number; kind: string; text: string; refused: boolean; fields?: Record<string, string> }[];
  receipt?: Receipt;
  in_log: boolean;
}

export interface Chain {
  state: 'unchecked' | 'whole' | 'broken';
  at?: number;
  records: number;
  receipts: number;
  head?: string;
  refused: number;
  error?: string;
  hint?: string;
  class?: string;
}

export interface Timeline {
  entries: Entry[];
  chain: Chain;
  damaged?: number;
  older?: number;
}

export interface Right {
  who: string;
  command: string;
  means: string;
  limits: string[];
  in_force: boolean;
  period?: string;
}

export interface Access {
  operators: Right[];
  delegates: Right[];
  never: string[];
  policy: string;
  problem?: string;
}

export interface Task {
  title: string;
  text: string;
  commands: string[];
  done: boolean;
}

export interface Finding {
  what: string;
  state: string;
  text: string;
  mend?: string;
}

export interface Guide {
  tasks: Task[];
  findings: Finding[];
}

export interface Session {
  version: string;
}

/** Failure is an error with what to do next. */
export class Failure extends Error {
  constructor(
    text: string,
    readonly hint = '',
    readonly status = 0,
  ) {
    super(text);
  }
}

let onEnd: () => void = () => {};

/** whenSessionEnds is called when the server does not know this session any more. */
export function whenSessionEnds(call: () => void): void {
  onEnd = call;
}

const key = (): string => localStorage.getItem(keyName) ?? '';

/** hasSession tells whether there was a session in this browser. */
export const hasSession = (): boolean => key() !== '';

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { 'X-Uvbond-Key': key() };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer: Response;
  try {
    answer = await fetch(`/api/${path}`, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Failure('uvbond ui does not answer: has it ended?', 'start it again where it ran: uvbond ui');
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    localStorage.removeItem(keyName);
    onEnd();
  }
  throw new Failure(problem.error ?? `status ${answer.status}`, problem.hint ?? '', answer.status);
}

export const get = async <T>(path: string): Promise<T> => (await send('GET', path)).json();
export const post = async <T>(path: string, body: unknown = {}): Promise<T> => (await send('POST', path, body)).json();

/** login takes the token of a one-time link. */
export async function login(once: string): Promise<void> {
  const { key: fresh } = await post<{ key: string }>('login', { once });
  localStorage.setItem(keyName, fresh);
}

/** logout ends the session, also in other tabs. */
export async function logout(): Promise<void> {
  await post('logout').catch(() => {});
  localStorage.removeItem(keyName);
  onEnd();
}

/** run executes a management command and tells of its course. */
export async function run(vm: string, command: string, tell: (e: Event) => void): Promise<void> {
  const answer = await send('POST', `vms/${encodeURIComponent(vm)}/command`, { command });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? '';
    const lines = rest.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) if (line) tell(JSON.parse(line));
    if (done) return;
  }
}

/** open opens a WebSocket of a VM's console or screen. */
export function open(vm: string, kind: 'console' | 'screen', query = ''): WebSocket {
  const url = `ws://${location.host}/api/vms/${encodeURIComponent(vm)}/${kind}${query}`;
  const socket = new WebSocket(url, ['uvbond.1', `uvbond.key.${key()}`]);
  socket.binaryType = 'arraybuffer';
  return socket;
}

let told = 0;

/** active tells the server that its person is there, at most twice a minute. */
export function active(): void {
  if (!hasSession() || Date.now() - told < 30_000) return;
  told = Date.now();
  post('active').catch(() => {});
}
