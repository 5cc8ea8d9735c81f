import { useState } from 'preact/hooks';
import type { State, VM } from '../api';
import { ago, count, size } from '../format';
import { useNow, useTitle } from '../hooks';
import { toVM } from '../route';
import { Notice } from '../parts/bits';
import { stateText, Unverified, Verified } from '../parts/state';

const many = 8; // machines: more are searched for

export function ListView({ state }: { state: State }) {
  useTitle('Machines');
  const now = useNow(5000);
  const [find, setFind] = useState('');
  const words = find.toLowerCase().split(/\s+/);
  const found = state.vms.filter((vm) => words.every((w) => `${vm.name} ${vm.host} ${stateText(vm)}`.toLowerCase().includes(w)));
  return (
    <>
      <h1>Machines</h1>
      <p class="lead">
        A state here comes from a <strong>receipt</strong>: the hypervisor sealed it for you, and it opened. What the server says stands beside it, and nothing vouches for that.
      </p>
      {state.vms.length > many && (
        <div class="find" role="search">
          <label for="find">Find</label>
          <input id="find" type="search" autocomplete="off" spellcheck={false} placeholder="name, host or state" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
          <span class="faint" role="status">
            {find.trim() ? `${found.length} of ${count(state.vms.length, 'machine')}` : count(state.vms.length, 'machine')}
          </span>
        </div>
      )}
      <ul class="cards">
        {found.map((vm) => (
          <Card key={vm.name} vm={vm} now={now} />
        ))}
      </ul>
      {found.length === 0 && <p class="faint">{state.vms.length === 0 ? 'You have no machine of your own. The guide says how to make one.' : 'No machine is like that.'}</p>}
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
          {size(vm.memory)}, {count(vm.cpus, 'CPU')}, host {vm.host}
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
