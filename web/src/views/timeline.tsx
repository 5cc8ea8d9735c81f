import { useEffect, useState } from 'preact/hooks';
import { type Chain, type Entry, type Timeline, type VM, get, post } from '../api';
import { announce } from '../announce';
import { ago, clock, count, day, stamp } from '../format';
import { failureOf, useNow } from '../hooks';
import type { Failure } from '../api';
import { Question, Seal, Stop, Warning } from '../parts/icons';
import { Notice } from '../parts/bits';
import { ReceiptView } from '../parts/receipt';

const filters = {
  all: { text: 'Everything', keep: () => true },
  refused: { text: 'Refused', keep: (e: Entry) => e.refused },
  mine: { text: 'Mine', keep: (e: Entry) => e.by === 'owner' },
  others: { text: 'Operators and delegates', keep: (e: Entry) => e.by === 'operator' || e.by === 'delegate' },
} as const;
type Filter = keyof typeof filters;

const who: Record<string, string> = { owner: 'you', operator: 'an operator', delegate: 'a delegate', hypervisor: 'the hypervisor', guest: 'the guest' };

// The log is read again by itself this often, as long as somebody looks. Each time
// is recorded in it, which is why it is not done more often.
const every = 30_000;
const page = 100;

export function TimelineView({ vm }: { vm: VM }) {
  const [line, setLine] = useState<Timeline>();
  const [failure, setFailure] = useState<Failure>();
  const [busy, setBusy] = useState(false);
  const [watch, setWatch] = useState(true);
  const [filter, setFilter] = useState<Filter>('all');
  const [reading, setReading] = useState(false);
  const [most, setMost] = useState(page);
  const now = useNow(2000);

  const check = async () => {
    setBusy(true);
    try {
      const got = await post<Timeline>(`vms/${encodeURIComponent(vm.name)}/audit`);
      setLine((before) => {
        tell(before, got);
        return got;
      });
      setFailure(undefined);
    } catch (e) {
      setFailure(failureOf(e));
    }
    setBusy(false);
  };
  useEffect(() => {
    get<Timeline>(`vms/${encodeURIComponent(vm.name)}/timeline`).then((t) => setLine((l) => l ?? t), (e) => setFailure(failureOf(e)));
    void check();
  }, [vm.name]);
  useEffect(() => {
    if (!watch) return;
    const timer = setInterval(() => !document.hidden && void check(), every);
    return () => clearInterval(timer);
  }, [watch, vm.name]);

  const kept = line?.entries.filter((e) => filters[filter].keep(e) && (reading || e.refused || !e.reading)) ?? [];
  return (
    <>
      {line && <ChainView chain={line.chain} now={now} busy={busy} check={() => void check()} />}
      {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
      {line?.damaged ? <Notice kind="warn" title={`${count(line.damaged, 'stored receipt')} on this machine cannot be opened`} text="The file on this computer is damaged; the log of the hypervisor is not." /> : null}
      <div class="filters">
        <div class="segments" role="radiogroup" aria-label="Show">
          {(Object.keys(filters) as Filter[]).map((f) => (
            <label key={f}>
              <input type="radio" name="filter" checked={filter === f} onChange={() => setFilter(f)} />
              <span>
                {filters[f].text}
                {f === 'refused' && line ? <b class="number">{line.entries.filter(filters.refused.keep).length}</b> : null}
              </span>
            </label>
          ))}
        </div>
        <label class="check">
          <input type="checkbox" checked={reading} onChange={() => setReading(!reading)} /> also who only looked
        </label>
        <label class="check">
          <input type="checkbox" checked={watch} onChange={() => setWatch(!watch)} /> check every 30 seconds
        </label>
      </div>
      <ol class="timeline" aria-label="What happened, newest first">
        {kept.slice(0, most).map((e, i) => (
          <Line key={e.id} e={e} head={i === 0 || day(e.at) !== day(kept[i - 1]!.at)} />
        ))}
      </ol>
      {line && kept.length === 0 && <p class="faint">Nothing of this kind happened.</p>}
      {kept.length > most && (
        <button type="button" onClick={() => setMost(most + page)}>
          Show {Math.min(page, kept.length - most)} older
        </button>
      )}
      {line?.older && kept.length <= most ? (
        <p class="faint">
          {count(line.older, 'older line')} of the log, checked like all, would be too much for a page: <code>uvbond audit {vm.name}</code> shows them.
        </p>
      ) : null}
    </>
  );
}

// tell says new refusals aloud.
function tell(before: Timeline | undefined, after: Timeline): void {
  if (!before) return;
  const known = new Set(before.entries.map((e) => e.id));
  const fresh = after.entries.filter((e) => e.refused && e.by !== 'owner' && !known.has(e.id));
  if (fresh.length) announce(`${count(fresh.length, 'attempt')} refused: ${fresh[0]!.title}`);
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
        <button type="button" onClick={check} disabled={busy}>
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
      <div class="what">
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
