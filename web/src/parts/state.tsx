import type { VM } from '../api';
import { ago, stamp } from '../format';
import { Question, Seal } from './icons';

/** kindOf sorts run states by what they mean for a person. */
export function kindOf(vm: VM): 'run' | 'pause' | 'off' | 'odd' {
  if (vm.problem || vm.phase === 'pending') return 'odd';
  if (vm.ended) return 'off';
  if (vm.state === 'running') return 'run';
  return vm.state === 'paused' ? 'pause' : 'odd';
}

export const StateDot = ({ vm }: { vm: VM }) => <span class={`dot ${kindOf(vm)} ${vm.running ? 'busy' : ''}`} aria-hidden="true" />;

export function stateText(vm: VM): string {
  if (vm.problem) return 'damaged';
  if (vm.phase === 'pending') return 'registration interrupted';
  return vm.state || 'never started';
}

/** Verified is a VM's state with what vouches for it. */
export function Verified({ vm, now }: { vm: VM; now: number }) {
  return (
    <div class="verified">
      <span class={`chip ${kindOf(vm)}`}>
        <StateDot vm={vm} /> {stateText(vm)}
      </span>
      {vm.at ? (
        <span class="by">
          <Seal />
          <span>
            verified by receipt <code>{vm.receipt?.slice(0, 12) ?? '?'}</code> of {vm.command ?? 'a command'}, <time title={stamp(vm.at * 1000)}>{ago(now - vm.at)}</time>
            {vm.since && vm.since < vm.at ? (
              <>
                ; {vm.state} since <time title={ago(now - vm.since)}>{stamp(vm.since * 1000)}</time>, as far as receipts tell
              </>
            ) : null}
          </span>
        </span>
      ) : (
        <span class="faint">no receipt yet</span>
      )}
    </div>
  );
}

/** Unverified is what the server says: never shown without saying so. */
export function Unverified({ vm, now }: { vm: VM; now: number }) {
  const { claim } = vm;
  // Also after a command: what was said before its receipt is not shown any more.
  if (!claim) return <span class="claim">The server is being asked…</span>;
  const odd = !claim.error && vm.state !== undefined && claim.state !== vm.state && !vm.running;
  return (
    <span class={`claim ${odd || claim.error ? 'odd' : ''}`}>
      <Question />
      <span>
        {claim.error ? `The server was not reached: ${claim.error}` : `The server says: ${claim.state || 'nothing'}`} · <em>unverified</em>, {ago(now - claim.at)}
        {odd && (
          <>
            {' · '}
            <strong>differs from the last receipt: check the state</strong>
          </>
        )}
      </span>
    </span>
  );
}
