import { useState } from 'preact/hooks';
import { type Access, type Delegation, type Receipt, type Right, type VM, get, post } from '../api';
import { announce } from '../announce';
import type { Failure } from '../api';
import { stamp } from '../format';
import { failureOf, usePoll } from '../hooks';
import { Check, Stop } from '../parts/icons';
import { Command, Notice } from '../parts/bits';
import { Sure } from '../parts/sure';

export function AccessView({ vm }: { vm: VM }) {
  const { data, failure, again } = usePoll(() => get<Access>(`vms/${encodeURIComponent(vm.name)}/access`), 10_000, [vm.name]);
  if (failure && !data) return <Notice kind="bad" title={failure.message} text={failure.hint} />;
  if (!data) return <p class="faint">Looking…</p>;
  return (
    <>
      <section class="card">
        <h2>What operators may do without you</h2>
        <p>
          The people who run the server can do what stands here, and nothing else. The hypervisor enforces it, counts it, and writes every use and every refused attempt into your
          time line.
        </p>
        {data.problem && <Notice kind="bad" title={data.problem} />}
        {data.operators.length === 0 ? (
          <p>
            <strong>Nothing.</strong> Every command needs your ticket.
          </p>
        ) : (
          <Rights rows={data.operators} caption="What operators may do" />
        )}
        <Text text={data.policy} what="The hypervisor holds this text, sealed, and enforces it word for word. The table is made from it." />
        <p class="faint">Changing it needs a terminal. To allow something, and to take everything back:</p>
        <Command text={`uvbond vm allow ${vm.name} maintain --limit 3/day --window "mon-fri 08:00-18:00"`} />
        {data.operators.length > 0 && <Command text={`uvbond vm allow ${vm.name} none`} />}
      </section>
      <Delegates vm={vm} list={data.delegates} again={again} />
      <section class="card">
        <h2>What nobody can be allowed</h2>
        <p>No policy and no delegation can hold these; the hypervisor knows no such permission.</p>
        <ul class="never">
          {data.never.map((n) => (
            <li key={n}>
              <Stop /> {n}
            </li>
          ))}
        </ul>
      </section>
    </>
  );
}

function Delegates({ vm, list, again }: { vm: VM; list: Delegation[]; again: () => void }) {
  const [ask, setAsk] = useState<Delegation>();
  const [busy, setBusy] = useState('');
  const [done, setDone] = useState<{ who: string; receipt: Receipt }>();
  const [failure, setFailure] = useState<Failure>();
  const take = async (d: Delegation) => {
    setBusy(d.id);
    setDone(undefined);
    setFailure(undefined);
    try {
      const { receipt } = await post<{ receipt: Receipt }>(`vms/${encodeURIComponent(vm.name)}/undelegate`, { delegation: d.id });
      setDone({ who: d.who, receipt });
      announce(`What ${d.who} could do is taken back`);
      document.getElementById('delegates-title')?.focus(); // the button goes
    } catch (e) {
      setFailure(failureOf(e));
    }
    setBusy('');
    again();
  };
  return (
    <section class="card" aria-labelledby="delegates-title">
      <h2 id="delegates-title" tabIndex={-1}>
        Whom you delegated to
      </h2>
      <p>
        They act with keys of their own, for a time, until you take it back. The log names them. Known here are the ones that were given away from this computer.
      </p>
      {done && (
        <Notice kind="good" title={`What ${done.who} could do is taken back.`} text={`The hypervisor says so: receipt ${done.receipt.nonce.slice(0, 12)} of ${stamp(done.receipt.at * 1000)}.`} />
      )}
      {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
      {list.length === 0 ? (
        <p>
          <strong>Nobody.</strong>
        </p>
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="What delegates may do">
          <table class="delegates">
            <caption class="hidden">What delegates may do</caption>
            <thead>
              <tr>
                <th scope="col">Who, until when</th>
                <th scope="col">Command</th>
                <th scope="col">What it does</th>
                <th scope="col">How often, when</th>
              </tr>
            </thead>
            {list.map((d) => (
              <Delegate key={d.id} d={d} busy={busy !== ''} taking={busy === d.id} take={() => setAsk(d)} />
            ))}
          </table>
        </div>
      )}
      <p class="faint">To let somebody else in, who sent you the key that uvbond identity export wrote:</p>
      <Command text={`uvbond vm delegate ${vm.name} --to bob.pub --allow status,reset --until 30day`} />
      <p class="faint">To take back everything, also what was given away from another computer:</p>
      <Command text={`uvbond vm undelegate ${vm.name} --all`} />
      {ask && (
        <Sure title={`Take back what ${ask.who} may do?`} act="Take it back" no={() => setAsk(undefined)} yes={() => void take(ask)}>
          <p>
            {ask.who} cannot use {ask.rights.map((r) => r.command).join(', ')} on {vm.name} any more, from the moment the hypervisor knows. What {ask.who} did before stays in the time
            line. It cannot be undone; you can delegate anew.
          </p>
        </Sure>
      )}
    </section>
  );
}

function Delegate({ d, busy, taking, take }: { d: Delegation; busy: boolean; taking: boolean; take: () => void }) {
  const rows: (Right | undefined)[] = d.rights.length ? d.rights : [undefined];
  return (
    <tbody class={d.ended ? 'over' : ''}>
      {rows.map((r, i) => (
        <tr key={i}>
          {i === 0 && (
            <th scope="rowgroup" rowSpan={rows.length}>
              <span class="who">{d.who}</span>
              <span class={`chip ${d.in_force ? 'run' : 'off'}`}>
                {d.in_force && <Check />} {d.in_force ? 'in force' : 'not in force'}
              </span>
              <span class="faint small">
                {d.period}; given {stamp(d.issued * 1000)}
              </span>
              {!d.ended && (
                <button type="button" class="danger" aria-disabled={busy} onClick={() => !busy && take()}>
                  {taking ? 'Taking it back…' : 'Take it back'}
                  <span class="hidden"> from {d.who}</span>
                </button>
              )}
              <Text text={d.text} what="This is what the hypervisor enforces." />
            </th>
          )}
          {r ? <Cells r={r} /> : <td colSpan={3}>{d.problem || 'nothing'}</td>}
        </tr>
      ))}
    </tbody>
  );
}

function Cells({ r }: { r: Right }) {
  return (
    <>
      <td>
        <code>{r.command}</code>
      </td>
      <td>{r.means}</td>
      <Limits r={r} />
    </>
  );
}

function Limits({ r }: { r: Right }) {
  return (
    <td>
      {r.limits.length === 0 ? (
        'at any time, as often as wanted'
      ) : (
        <ul>
          {r.limits.map((l) => (
            <li key={l}>{l}</li>
          ))}
        </ul>
      )}
    </td>
  );
}

function Text({ text, what }: { text: string; what: string }) {
  if (!text.trim()) return null;
  return (
    <details>
      <summary>Show the text that is enforced</summary>
      <p class="faint small">{what}</p>
      <pre tabIndex={0}>{text.trim()}</pre>
    </details>
  );
}

function Rights({ rows, caption }: { rows: Right[]; caption: string }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            <th scope="col">Command</th>
            <th scope="col">What it does</th>
            <th scope="col">How often, when</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((r, i) => (
            <tr key={i}>
              <th scope="row">
                <code>{r.command}</code>
              </th>
              <td>{r.means}</td>
              <Limits r={r} />
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
