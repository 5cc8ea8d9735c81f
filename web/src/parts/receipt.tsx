import type { Receipt } from '../api';
import { stamp } from '../format';

/** ReceiptView shows what a verified receipt says. */
export function ReceiptView({ receipt: r }: { receipt: Receipt }) {
  const rows: { command: string; arguments?: string; verdict: string; detail?: string; times: number }[] = [];
  for (const c of r.calls) {
    const last = rows.at(-1);
    if (last && last.command === c.command && last.verdict === c.verdict && last.detail === c.detail && last.arguments === c.arguments) last.times++;
    else rows.push({ ...c, times: 1 });
  }
  return (
    <>
      {rows.length > 0 && (
        <table class="calls-table">
          <thead>
            <tr>
              <th scope="col">Hypercall</th>
              <th scope="col">Verdict</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((c, i) => (
              <tr key={i} class={c.verdict === 'ok' ? '' : 'bad'}>
                <td>
                  <code>{c.command}</code>
                  {c.times > 1 && <span class="faint"> ×{c.times}</span>}
                  {c.arguments && <code class="args">{c.arguments}</code>}
                </td>
                <td>
                  {c.verdict}
                  {c.detail && <div class="faint small">{c.detail}</div>}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <p class="faint small">
        Receipt <code>{r.nonce.slice(0, 12)}</code> of {stamp(r.at * 1000)}: {r.command} {r.verdict}
        {r.class && ` (${r.class}: ${r.reason})`}; state {r.state}
        {r.instance ? `, instance ${r.instance}` : ''}; {r.records} audit records by then.
      </p>
    </>
  );
}
