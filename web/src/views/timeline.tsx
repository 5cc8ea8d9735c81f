import { useEffect, useRef, useState } from 'preact/hooks';
import { type Chain, type Entry, type Timeline, type VM, get, post, sinceActive } from '../api';
import { announce } from '../announce';
import { ago, clock, count, day, stamp } from '../format';
import { failureOf, useLatest, useNow } from '../hooks';
import type { Failure } from '../api';
import { Question, Seal, Stop, Warning } from '../parts/icons';
import { Notice } from '../parts/bits';
import { ReceiptView } from '../parts/receipt';

const filters = { all: 'Everything', refused: 'Refused', mine: 'Mine', others: 'Operators and delegates' } as const;
type Filter = keyof typeof filters;

const who: Record<string, string> = { owner: 'you', operator: 'an operator', delegate: 'a delegate', hypervisor: 'the hypervisor', guest: 'the guest' };

// The log is read again by itself this often while somebody uses the page, and more rarely
// when it only stands open: each time is recorded in it.
const every = 10_000;
const everyIdle = 60_000;
const page = 100;
const mostOfAll = 5000; // that the server gives

export function TimelineView({ vm }: { vm: VM }) {
  const [line, setLine] = useState<Timeline>();
  const [failure, setFailure] = useState<Failure>();
  const [busy, setBusy] = useState(false);
  const [watch, setWatch] = useState(true);
  const [filter, setFilter] = useState<Filter>('all');
  const [looking, setLooking] = useState(false);
  const [most, setMost] = useState(page);
  const list = useRef<HTMLOListElement>(null);
  const now = useNow(5000);
  const query = `?show=${filter === 'all' ? '' : filter}&looking=${looking ? 'yes' : ''}&most=${most}`;
  const wanted = useLatest(query);
  const checking = useRef(false);
  const attack = useRef<number>(undefined);
  const next = useRef<number>(undefined);

  // show takes an answer, unless something else is wanted by now.
  const show = (got: Timeline, asked: string) => {
    const known = attack.current;
    attack.current = got.attack?.seq ?? -1;
    if (known !== undefined && got.attack && got.attack.seq > known) announce(`Attempt refused: ${got.attack.title}`);
    if (asked === wanted.current) setLine(got);
  };
  const look = async (asked: string) => show(await get<Timeline>(`vms/${encodeURIComponent(vm.name)}/timeline${asked}`), asked);
  const check = async () => {
    if (checking.current) return;
    checking.current = true;
    setBusy(true);
    const asked = wanted.current;
    try {
      show(await post<Timeline>(`vms/${encodeURIComponent(vm.name)}/audit${asked}`), asked);
      if (asked !== wanted.current) await look(wanted.current);
      setFailure(undefined);
    } catch (e) {
      setFailure(failureOf(e));
    }
    checking.current = false;
    setBusy(false);
  };
  useEffect(() => {
    look(query).catch((e) => setFailure(failureOf(e)));
  }, [vm.name, query]);
  useEffect(() => void check(), [vm.name]);
  useEffect(() => {
    if (!watch) return;
    let last = Date.now();
    const timer = setInterval(() => {
      if (document.hidden || Date.now() - last < (sinceActive() < 3 * everyIdle ? every : everyIdle)) return;
      last = Date.now();
      void check();
    }, 1000);
    return () => clearInterval(timer);
  }, [watch, vm.name]);

  const entries = line?.entries ?? [];
  const older = () => {
    const last = entries.length;
    setMost(Math.min(most + page, mostOfAll));
    // Who asked with the keyboard goes on from the first of the new lines, once they are there.
    next.current = last;
  };
  useEffect(() => {
    if (next.current === undefined || entries.length <= next.current) return;
    (list.current?.children[next.current]?.querySelector('.what') as HTMLElement | null)?.focus();
    next.current = undefined;
  }, [line]);
  return (
    <>
      {line ? <ChainView chain={line.chain} now={now} busy={busy} check={() => void check()} /> : !failure && <p class="faint">Looking…</p>}
      {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
      {line?.damaged ? <Notice kind="warn" title={`${count(line.damaged, 'stored receipt')} on this machine cannot be opened`} text="The file on this computer is damaged; the log of the hypervisor is not." /> : null}
      <div class="filters">
        <div class="segments" role="radiogroup" aria-label="Show">
          {(Object.keys(filters) as Filter[]).map((f) => (
            <label key={f}>
              <input type="radio" name="filter" checked={filter === f} onChange={() => (setFilter(f), setMost(page))} />
              <span>
                {filters[f]}
                {f === 'refused' && line ? <b class="number">{line.refused}</b> : null}
              </span>
            </label>
          ))}
        </div>
        <label class="check">
          <input type="checkbox" checked={looking} onChange={() => setLooking(!looking)} /> also who only looked
        </label>
        <label class="check">
          <input type="checkbox" checked={watch} onChange={() => setWatch(!watch)} /> keep checking
        </label>
      </div>
      <ol class="timeline" ref={list} aria-label="What happened, newest first">
        {entries.map((e, i) => (
          <Line key={e.id} e={e} head={i === 0 || day(e.at) !== day(entries[i - 1]!.at)} />
        ))}
      </ol>
      {line && entries.length === 0 && <p class="faint">Nothing of this kind happened.</p>}
      {line?.older && most < mostOfAll ? (
        <button type="button" onClick={older}>
          Show {Math.min(page, line.older)} older, of {count(line.older, 'line')}
        </button>
      ) : null}
      {line?.older && most >= mostOfAll ? (
        <p class="faint">
          {count(line.older, 'older line')} of the log, checked like all, would be too much for a page: <code>uvbond audit {vm.name}</code> shows them.
        </p>
      ) : null}
    </>
  );
}

function ChainView({ chain, now, busy, check }: { chain: Chain; now: number; busy: boolean; check: () => void }) {
  return (
    <section class={`card chain ${chain.state}`} aria-label="Audit chain">
      <div class="head">
        <h2>
          {chain.state === 'whole' && (
            <>
              <Seal /> The chain is whole
            </>
          )}
          {chain.state === 'broken' && (
            <>
              <Stop /> The chain is broken
            </>
          )}
          {chain.state === 'unchecked' && (
            <>
              <Question /> Not checked yet
            </>
          )}
        </h2>
        <button type="button" onClick={check} aria-disabled={busy}>
          {busy ? 'Checking…' : 'Check now'}
        </button>
      </div>
      {chain.state === 'whole' && (
        <p>
          {count(chain.records, 'record')} of the hypervisor’s log, sealed for you and chained, and {count(chain.receipts, 'receipt')} on this computer that stand in it. Checked{' '}
          <time title={chain.at ? stamp(chain.at * 1000) : ''}>{ago(now - (chain.at ?? now))}</time>. Head <code>{chain.head?.slice(0, 16)}</code>.
        </p>
      )}
      {chain.state === 'unchecked' && <p>The log comes sealed from the hypervisor; the server in between cannot change it without being found out.</p>}
      {chain.error && <Notice kind={chain.state === 'broken' ? 'bad' : 'warn'} title={chain.error} text={chain.hint} />}
      {chain.refused > 0 && (
        <p class="attempts">
          <Warning /> {count(chain.refused, 'attempt')} that you did not allow, refused and listed below.
        </p>
      )}
    </section>
  );
}

function Line({ e, head }: { e: Entry; head: boolean }) {
  const attack = e.refused && e.by !== 'owner';
  const name = e.by === 'delegate' && e.fields?.['delegate'] ? `delegate ${e.fields['delegate']}` : who[e.by];
  return (
    <li class={`line ${e.by} ${attack ? 'attack' : e.refused ? 'refused' : ''}`}>
      {head && <h2 class="day">{day(e.at)}</h2>}
      <div class="at">
        <time title={stamp(e.at)}>{clock(e.at)}</time>
      </div>
      <div class="what" tabIndex={-1}>
        {attack && (
          <strong class="flag">
            <Stop /> Refused attempt{e.count ? ` ×${e.count}` : ''}
          </strong>
        )}
        <p class="title">{e.title}</p>
        <p class="faint small">
          {attack && e.by === 'hypervisor' ? 'noticed' : ''} by {name}
          {e.who && e.who !== e.by ? ` (${e.who})` : ''} · record {e.seq}
          {!e.in_log && ' · receipt only, not in the log as it was last fetched'}
        </p>
        {(e.steps || e.receipt || e.fields) && <Details e={e} />}
      </div>
    </li>
  );
}

function Details({ e }: { e: Entry }) {
  return (
    <details>
      <summary>Details</summary>
      {e.receipt && <ReceiptView receipt={e.receipt} />}
      {e.steps ? (
        <table>
          <thead>
            <tr>
              <th scope="col">Record</th>
              <th scope="col">Kind</th>
              <th scope="col">What</th>
            </tr>
          </thead>
          <tbody>
            {e.steps.map((s) => (
              <tr key={s.seq} class={s.refused ? 'bad' : ''}>
                <td>{s.seq}</td>
                <td>{s.kind}</td>
                <td>
                  {s.text}
                  {s.fields?.['calls'] && <div class="faint small">{s.fields['calls']}</div>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <dl>
          {Object.entries(e.fields ?? {}).map(([k, v]) => (
            <>
              <dt>{k}</dt>
              <dd class="wrap">{v}</dd>
            </>
          ))}
        </dl>
      )}
    </details>
  );
}
