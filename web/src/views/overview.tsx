import { useState } from 'preact/hooks';
import { type Detail, type Event, type Hypercall, type Result, type VM, get, run } from '../api';
import { announce } from '../announce';
import { capital, count, size, stamp } from '../format';
import { failureOf, useNow, usePoll } from '../hooks';
import { Again, Bolt, Eye, Pause, Play, Power, Question, Seal, Stop, Warning } from '../parts/icons';
import { Notice } from '../parts/bits';
import { Drawing } from '../parts/drawing';
import { ReceiptView } from '../parts/receipt';
import { Unverified, Verified } from '../parts/state';
import { Sure } from '../parts/sure';

const looks: Record<string, { text: string; icon: typeof Play; when: (vm: VM) => boolean; danger?: string }> = {
  status: { text: 'Check state', icon: Eye, when: () => true },
  start: { text: 'Start', icon: Play, when: (vm) => vm.ended },
  pause: { text: 'Pause', icon: Pause, when: (vm) => !vm.ended && vm.state !== 'paused' },
  resume: { text: 'Resume', icon: Play, when: (vm) => !vm.ended && vm.state === 'paused' },
  shutdown: { text: 'Shut down', icon: Power, when: (vm) => !vm.ended },
  reset: { text: 'Reset', icon: Again, when: (vm) => !vm.ended, danger: 'Reset it like the button does? What the guest has not saved is lost.' },
  poweroff: { text: 'Power off', icon: Bolt, when: (vm) => !vm.ended, danger: 'End the instance at once? What the guest has not saved is lost.' },
};

// slots are the places of the buttons. What takes turns has one place.
const slots = (vm: VM): string[] => ['status', vm.ended ? 'start' : vm.state === 'paused' ? 'resume' : 'pause', 'shutdown', 'reset', 'poweroff'];

export interface Course {
  command: string;
  drawing: string;
  automaton: string;
  calls: Hypercall[];
  result?: Result;
  broken?: string;
  hint?: string;
}

interface Props {
  vm: VM;
  again: () => void;
  course: Course | undefined;
  setCourse: (c: Course) => void;
}

export function OverviewView({ vm, again, course, setCourse }: Props) {
  const now = useNow(2000);
  const { data, failure } = usePoll(() => get<Detail>(`vms/${encodeURIComponent(vm.name)}`), 0, [vm.name, vm.instance, vm.phase]);
  const [ask, setAsk] = useState<string>();
  const busy = course !== undefined && !course.result && !course.broken;

  const begin = async (command: string) => {
    setAsk(undefined);
    let c: Course = { command, drawing: '', automaton: '', calls: [] };
    setCourse(c);
    announce(`${looks[command]?.text} of ${vm.name} begins`);
    try {
      await run(vm.name, command, (e) => {
        c = step(c, e);
        setCourse(c);
      });
      if (!c.result) c = { ...c, broken: 'The page lost sight of the command. It goes on; check the state.' };
    } catch (e) {
      const f = failureOf(e);
      c = { ...c, broken: f.message, hint: f.hint };
    }
    setCourse(c);
    announce(c.result ? outcome(vm.name, c.result, command) : (c.broken ?? ''));
    again();
  };

  return (
    <>
      <section class="card" aria-label="State">
        <Verified vm={vm} now={now} />
        <Unverified vm={vm} now={now} />
        <div class="actions" role="group" aria-label={`Commands for ${vm.name}`}>
          {slots(vm).map((command, i) => {
            const { icon: Icon, text, when, danger } = looks[command]!;
            // Not the attribute: a button that has the keyboard keeps it while it cannot be used.
            const off = busy || vm.running !== undefined || vm.phase !== 'bonded' || !when(vm);
            return (
              <button
                key={i}
                type="button"
                class={command === 'start' || command === 'resume' ? 'main' : danger ? 'danger' : ''}
                aria-disabled={off}
                title={capital(data?.commands.find((c) => c.command === command)?.means ?? '')}
                onClick={() => !off && (danger ? setAsk(command) : void begin(command))}
              >
                <Icon /> {text}
              </button>
            );
          })}
        </div>
        {vm.running && !busy && <p class="busy-line">{vm.running} is running, begun elsewhere…</p>}
      </section>
      {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
      {course && <CourseView vm={vm} course={course} />}
      {data && <Registration d={data} />}
      {ask && (
        <Sure title={`${looks[ask]!.text} ${vm.name}?`} act={looks[ask]!.text} no={() => setAsk(undefined)} yes={() => void begin(ask)}>
          {looks[ask]!.danger}
        </Sure>
      )}
    </>
  );
}

function step(c: Course, e: Event): Course {
  switch (e.event) {
    case 'begin':
      return { ...c, drawing: e.drawing ?? '', automaton: e.automaton ?? '' };
    case 'hypercall': {
      const h = e.hypercall!;
      const calls = [...c.calls];
      const last = calls.at(-1);
      if (h.answered && last && last.command === h.command && !last.answered) calls[calls.length - 1] = { ...last, answered: true, ...(h.class ? { class: h.class } : {}) };
      else calls.push(h);
      if (!h.answered) announce(`Hypercall ${h.command}`);
      return { ...c, calls, drawing: h.drawing ?? c.drawing };
    }
    case 'end':
      return { ...c, result: e.result!, drawing: e.drawing ?? c.drawing };
  }
}

function outcome(name: string, r: Result, command: string): string {
  if (r.outcome === 'done') return `${capital(command)} of ${name} is done; its state is ${r.state}`;
  return r.error ?? `${capital(command)} of ${name}: ${r.outcome}`;
}

function CourseView({ vm, course }: { vm: VM; course: Course }) {
  const { result, broken, calls } = course;
  const verified = result?.receipt !== undefined;
  return (
    <section class={`card course ${verified ? 'sure' : 'unsure'}`} aria-label={`Course of ${course.command}`}>
      <div class="head">
        <h2>{looks[course.command]?.text ?? course.command}</h2>
        {verified ? (
          <span class="chip run">
            <Seal /> verified by receipt {result.receipt!.nonce.slice(0, 12)}
          </span>
        ) : (
          <span class="chip claim">
            <Question /> {result || broken ? 'no receipt' : 'live: the server’s word, unverified until the receipt comes'}
          </span>
        )}
      </div>
      {result && result.outcome === 'done' && <Notice kind="good" title={outcome(vm.name, result, course.command)} />}
      {result && result.outcome !== 'done' && <Notice kind="bad" title={outcome(vm.name, result, course.command)} text={result.hint} />}
      {broken && <Notice kind="bad" title={broken} text={course.hint} />}
      <div class="two">
        <div>
          <h3>{verified ? 'What was executed' : 'Hypercalls'}</h3>
          {verified ? <ReceiptView receipt={result.receipt!} /> : <Calls calls={calls} over={result !== undefined || broken !== undefined} />}
        </div>
        {course.drawing && (
          <div>
            <h3>The automaton of your ticket</h3>
            <p class="faint small">Only these hypercalls, in this order. Anything else ends the session.</p>
            <Drawing svg={course.drawing} label={described(course)} />
            <details>
              <summary>Show its text</summary>
              <pre tabIndex={0}>{course.automaton.trim()}</pre>
            </details>
          </div>
        )}
      </div>
    </section>
  );
}

function described(c: Course): string {
  const names = c.result?.receipt ? c.result.receipt.calls.map((x) => x.command) : c.calls.map((x) => x.command);
  return names.length ? `Automaton ${c.command}; passed so far: ${names.join(', ')}` : `Automaton ${c.command}, at its start`;
}

function Calls({ calls, over }: { calls: Hypercall[]; over: boolean }) {
  return (
    <ol class="calls">
      {calls.map((h, i) => (
        <li key={i} class={!h.accepted || h.class ? 'bad' : h.answered || over ? 'told' : 'now'}>
          {!h.accepted ? <Stop /> : h.class ? <Warning /> : <span class="tick" aria-hidden="true" />}
          <span>
            <code>{h.command}</code>
            {h.arguments && <code class="args">{h.arguments}</code>}
            <span class="faint small">
              {' '}
              {!h.accepted ? `not in the automaton: ${h.why}` : h.class ? `failed: ${h.class}` : h.answered ? 'answered' : over ? 'no answer was told' : 'being executed…'}
            </span>
          </span>
        </li>
      ))}
      {calls.length === 0 && <li class="faint">{over ? 'none was told' : 'waiting for the gate…'}</li>}
    </ol>
  );
}

function Registration({ d }: { d: Detail }) {
  return (
    <section class="card">
      <h2>Registration</h2>
      <p class="faint small">What the hypervisor builds, and nothing else. It was sealed when the machine was created.</p>
      <dl>
        <dt>Machine</dt>
        <dd>
          {d.machine}, {d.firmware}, {count(d.cpus, 'CPU')}, {size(d.memory)} memory
        </dd>
        {d.disks.map((x, i) => (
          <>
            <dt>Disk {x.name}</dt>
            <dd>
              {x.bus}
              {i === 0 && ', boots'}
              {x.read_only && ', read-only'}
              {x.length > 0 && `, ${size(x.length)}`}, encrypted with your key <span class="faint">(from {x.file})</span>
            </dd>
          </>
        ))}
        {d.nics.map((n) => (
          <>
            <dt>Network</dt>
            <dd>
              {n.model}, {n.mac}
            </dd>
          </>
        ))}
        <dt>Hypervisor</dt>
        <dd>
          {d.host}, pinned as <code class="wrap">{d.fingerprint}</code>
        </dd>
        <dt>Registered</dt>
        <dd>{stamp(d.created * 1000)}</dd>
        <dt>Identifier</dt>
        <dd>
          <code class="wrap">{d.id}</code>
        </dd>
      </dl>
    </section>
  );
}
