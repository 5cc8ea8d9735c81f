import type { State, VM } from '../api';
import { ago, count, size } from '../format';
import { useNow, useTitle } from '../hooks';
import { toVM } from '../route';
import { Notice } from '../parts/bits';
import { Unverified, Verified } from '../parts/state';

export function ListView({ state }: { state: State }) {
  useTitle('Machines');
  const now = useNow(2000);
  return (
    <>
      <h1>Machines</h1>
      <p class="lead">
        A state here comes from a <strong>receipt</strong>: the hypervisor sealed it for you, and it opened. What the server says stands beside it, and nothing vouches for that.
      </p>
      <ul class="cards">
        {state.vms.map((vm) => (
          <Card key={vm.name} vm={vm} now={now} />
        ))}
      </ul>
      {state.grants.length > 0 && <Grants state={state} now={now} />}
    </>
  );
}

function Card({ vm, now }: { vm: VM; now: number }) {
  return (
    <li class="card vm">
      <div class="head">
        <h2>
          <a href={toVM(vm.name)}>{vm.name}</a>
        </h2>
        <span class="faint">
          {size(vm.memory)}, {count(vm.cpus, 'cpu')}, host {vm.host}
        </span>
      </div>
      {vm.problem ? <Notice kind="bad" title="Its state on this machine is damaged" text={vm.problem} /> : <Verified vm={vm} now={now} />}
      {vm.running && <p class="busy-line">{vm.running} is running…</p>}
      <Unverified vm={vm} now={now} />
    </li>
  );
}

function Grants({ state, now }: { state: State; now: number }) {
  return (
    <section>
      <h2>Machines of other owners</h2>
      <p class="faint">
        They were delegated to you. Command them with <code>uvbond delegation run NAME COMMAND</code>.
      </p>
      <table>
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Host</th>
            <th scope="col">State, verified</th>
          </tr>
        </thead>
        <tbody>
          {state.grants.map((g) => (
            <tr key={g.name}>
              <th scope="row">{g.name}</th>
              <td>{g.host}</td>
              <td>
                {g.state ?? 'not known'} {g.at ? <span class="faint">({ago(now - g.at)})</span> : null}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
