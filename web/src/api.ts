// The page's way to `uvbond ui`. A session has two secrets: a cookie, which this
// script cannot see, and a key, which is kept for this origin alone. A third, the
// proof, is never sent: answers bear it, or are not believed.

export const keyName = 'uvbond-key'; // of key and proof, in one item: tabs never see half

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
  refused: number;
  attack?: { seq: number; title: string };
}

export interface Right {
  command: string;
  means: string;
  limits: string[];
}

export interface Delegation {
  id: string;
  who: string;
  issued: number;
  in_force: boolean;
  ended: boolean;
  period: string;
  rights: Right[];
  text: string;
  problem?: string;
}

export interface Access {
  operators: Right[];
  delegates: Delegation[];
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

let onEnd: (why?: string) => void = () => {};

/** whenSessionEnds is called when the server does not know this session any more, or is not the one that began it. */
export function whenSessionEnds(call: (why?: string) => void): void {
  onEnd = call;
}

const secrets = (): string[] => (localStorage.getItem(keyName) ?? '').split(' ');
const key = (): string => secrets()[0] ?? '';

/** hasSession tells whether there was a session in this browser. */
export const hasSession = (): boolean => key() !== '';

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const [ours = '', proof = ''] = secrets();
  const headers: Record<string, string> = { 'X-Uvbond-Key': ours };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer: Response;
  try {
    answer = await fetch(`/api/${path}`, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (e) {
    if (signal?.aborted) throw e;
    throw new Failure('uvbond ui does not answer: has it ended?', 'start it again where it ran: uvbond ui');
  }
  if ((answer.headers.get('X-Uvbond-Proof') ?? '') !== proof && path !== 'login' && answer.status !== 401) {
    localStorage.removeItem(keyName);
    onEnd('Something else than uvbond ui answers at this address. Believe nothing that it shows.');
    throw new Failure('an answer without proof');
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    if (key() === ours) localStorage.removeItem(keyName); // else another tab logged in meanwhile
    onEnd();
  }
  throw new Failure(problem.error ?? `status ${answer.status}`, problem.hint ?? '', answer.status);
}

export const get = async <T>(path: string): Promise<T> => (await send('GET', path)).json();
export const post = async <T>(path: string, body: unknown = {}): Promise<T> => (await send('POST', path, body)).json();

/** login takes the token of a one-time link. */
export async function login(once: string): Promise<void> {
  const fresh = await post<{ key: string; proof: string }>('login', { once });
  localStorage.setItem(keyName, `${fresh.key} ${fresh.proof}`);
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

/** open opens a WebSocket of a VM's console or screen, after its server has shown its proof. */
export async function open(vm: string, kind: 'console' | 'screen', query = ''): Promise<WebSocket> {
  await get('session');
  const url = `ws://${location.host}/api/vms/${encodeURIComponent(vm)}/${kind}${query}`;
  const socket = new WebSocket(url, ['uvbond.1', `uvbond.key.${key()}`]);
  socket.binaryType = 'arraybuffer';
  return socket;
}

let told = 0;
let last = Date.now();

/** active tells the server that its person is there, at most twice a minute. */
export function active(): void {
  last = Date.now();
  if (!hasSession() || last - told < 30_000) return;
  told = last;
  post('active').catch(() => {});
}

/** sinceActive is how long ago the page's person did something, milliseconds. */
export const sinceActive = (): number => Date.now() - last;
