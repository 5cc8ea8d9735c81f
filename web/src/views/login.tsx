import { useTitle } from '../hooks';
import { Seal } from '../parts/icons';
import { Command, Notice } from '../parts/bits';

export function LoginView({ trouble }: { trouble: string }) {
  useTitle('Log in');
  return (
    <main class="login">
      <div class="card">
        <h1>
          <Seal /> UVBond
        </h1>
        {trouble && <Notice kind="bad" title={trouble} />}
        <h2>Log in with a link</h2>
        <p>
          This page has no password. Where <code>uvbond ui</code> runs, press <kbd>Enter</kbd>: it prints a new link. Each link logs one browser in, once, within five minutes.
        </p>
        <p>If it does not run any more, start it:</p>
        <Command text="uvbond ui --open" />
      </div>
    </main>
  );
}
