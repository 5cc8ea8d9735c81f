import { type Access, type Right, type VM, get } from '../api';
import { usePoll } from '../hooks';
import { Check, Stop } from '../parts/icons';
import { Command, Notice } from '../parts/bits';

export function AccessView({ vm }: { vm: VM }) {
  const { data, failure } = usePoll(() => get<Access>(`vms/${encodeURIComponent(vm.name)}/access`), 10_000, [vm.name]);
  if (failure) return <Notice kind="bad" title={failure.message} text={failure.hint} />;
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
        <p class="faint">Change it in a terminal, for example:</p>
        <Command text={`uvbond vm allow ${vm.name} maintain --limit 3/day --window "mon-fri 08:00-18:00"`} />
      </section>
      <section class="card">
        <h2>Whom you delegated to</h2>
        <p>They act with keys of their own, for a time, until you take it back. The log names them. Known here are the ones that were given away from this computer.</p>
        {data.delegates.length === 0 ? (
          <p>
            <strong>Nobody.</strong>
          </p>
        ) : (
          <Rights rows={data.delegates} caption="What delegates may do" delegates />
        )}
        <p class="faint">Give or take back in a terminal:</p>
        <Command text={`uvbond vm delegate ${vm.name} --to bob.pub --allow status,reset --until 30day`} />
        {data.delegates.some((d) => d.in_force) && <Command text={`uvbond vm undelegate ${vm.name} ${data.delegates.find((d) => d.in_force)!.who}`} />}
      </section>
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
      {data.policy.trim() && (
        <section class="card">
          <h2>The text that is enforced</h2>
          <p class="faint">This, word for word, is sealed and held by the hypervisor. The table above is made from it.</p>
          <details>
            <summary>Show the policy</summary>
            <pre tabIndex={0}>{data.policy.trim()}</pre>
          </details>
        </section>
      )}
    </>
  );
}

function Rights({ rows, caption, delegates = false }: { rows: Right[]; caption: string; delegates?: boolean }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {delegates && <th scope="col">Who</th>}
            <th scope="col">Command</th>
            <th scope="col">What it does</th>
            <th scope="col">How often, when</th>
            {delegates && <th scope="col">In force</th>}
          </tr>
        </thead>
        <tbody>
          {rows.map((r, i) => (
            <tr key={i} class={r.in_force ? '' : 'over'}>
              {delegates && <th scope="row">{r.who}</th>}
              {delegates ? (
                <td>
                  <code>{r.command}</code>
                </td>
              ) : (
                <th scope="row">
                  <code>{r.command}</code>
                </th>
              )}
              <td>{r.means}</td>
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
              {delegates && (
                <td>
                  <span class={`chip ${r.in_force ? 'run' : 'off'}`}>
                    {r.in_force && <Check />} {r.in_force ? 'yes' : 'no'}
                  </span>{' '}
                  {r.period}
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
