import { useEffect, useState } from 'preact/hooks';
import { type Session, type State, active, get, hasSession, login, logout, whenSessionEnds } from './api';
import { announce, Announcer } from './announce';
import { failureOf, usePoll } from './hooks';
import { KeysHelp, useKeys } from './keys';
import { type Route, toVM, useRoute } from './route';
import { type Theme, applyTheme, theme } from './theme';
import { Compass, Keyboard, Leave, Moon, Seal, Server, Sun } from './parts/icons';
import { Notice } from './parts/bits';
import { StateDot } from './parts/state';
import { GuideView } from './views/guide';
import { ListView } from './views/list';
import { LoginView } from './views/login';
import { VMView } from './views/vm';

type Phase = 'starting' | 'out' | 'in';

export function App() {
  const [phase, setPhase] = useState<Phase>('starting');
  const [session, setSession] = useState<Session>();
  const [trouble, setTrouble] = useState('');
  useEffect(() => {
    whenSessionEnds(() => setPhase('out'));
    const enter = async () => {
      const once = /^#once=([A-Za-z0-9_-]+)$/.exec(location.hash)?.[1];
      if (once) history.replaceState(null, '', '/'); // it stays neither in the address nor in the history
      setTrouble('');
      try {
        if (once) await login(once);
        if (!hasSession()) return setPhase('out');
        setSession(await get<Session>('session'));
        setPhase('in');
      } catch (e) {
        setTrouble(failureOf(e).message);
        setPhase('out');
      }
    };
    void enter();
    const changed = () => location.hash.startsWith('#once=') && void enter();
    addEventListener('hashchange', changed);
    for (const kind of ['keydown', 'pointerdown'] as const) addEventListener(kind, active, { capture: true });
    return () => removeEventListener('hashchange', changed);
  }, []);
  return (
    <>
      <Announcer />
      {phase === 'out' && <LoginView trouble={trouble} />}
      {phase === 'in' && session && <Shell session={session} />}
    </>
  );
}

function Shell({ session }: { session: Session }) {
  const route = useRoute();
  const { data, failure, again } = usePoll(() => get<State>('state'), 2000);
  const [help, setHelp] = useState(false);
  useKeys(route, () => setHelp(true));
  const first = data !== undefined && data.vms.length === 0 && data.grants.length === 0;
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={skip}>
        Skip to the content
      </a>
      <Sidebar route={route} state={data} session={session} showHelp={() => setHelp(true)} />
      <main id="main" tabIndex={-1}>
        {failure && <Notice kind="bad" title={failure.message} text={failure.hint} />}
        {data && route.page === 'list' && (first ? <GuideView first /> : <ListView state={data} />)}
        {data && route.page === 'guide' && <GuideView />}
        {data && route.page === 'vm' && <VMView key={route.vm} route={route} state={data} again={again} />}
        {!data && !failure && <p class="faint">Looking…</p>}
      </main>
      {help && <KeysHelp close={() => setHelp(false)} />}
    </div>
  );
}

function skip(e: Event): void {
  e.preventDefault();
  document.getElementById('main')?.focus();
}

function Sidebar({ route, state, session, showHelp }: { route: Route; state: State | undefined; session: Session; showHelp: () => void }) {
  const here = (page: Route['page'], vm = '') => (route.page === page && route.vm === vm ? 'page' : undefined);
  return (
    <header class="side">
      <a class="brand" href="#/">
        <Seal />
        <span>UVBond</span>
      </a>
      <nav aria-label="Virtual machines">
        <a href="#/" aria-current={here('list')}>
          <Server /> All machines
        </a>
        <ul>
          {state?.vms.map((vm) => (
            <li key={vm.name}>
              <a href={toVM(vm.name)} aria-current={here('vm', vm.name)}>
                <StateDot vm={vm} /> {vm.name}
              </a>
            </li>
          ))}
        </ul>
        <a href="#/guide" aria-current={here('guide')}>
          <Compass /> Guide and doctor
        </a>
      </nav>
      <div class="foot">
        <ThemeSwitch />
        <button type="button" class="quiet" onClick={showHelp} aria-haspopup="dialog">
          <Keyboard /> Keyboard
        </button>
        <button type="button" class="quiet" onClick={() => void logout()}>
          <Leave /> Log out
        </button>
        <p class="faint small">
          uvbond {session.version} · <a href="/licenses.txt">licences</a>
        </p>
      </div>
    </header>
  );
}

function ThemeSwitch() {
  const [chosen, set] = useState<Theme>(theme());
  const choose = (t: Theme) => {
    applyTheme(t);
    set(t);
    announce(`Colours: ${t}`);
  };
  return (
    <div class="segments" role="radiogroup" aria-label="Colours">
      {(['system', 'light', 'dark'] as const).map((t) => (
        <label key={t} title={t}>
          <input type="radio" name="theme" value={t} checked={chosen === t} onChange={() => choose(t)} />
          <span>
            {t === 'light' && <Sun />}
            {t === 'dark' && <Moon />}
            <span class={t === 'system' ? '' : 'hidden'}>{t === 'system' ? 'Auto' : t}</span>
          </span>
        </label>
      ))}
    </div>
  );
}

