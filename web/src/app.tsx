import { useEffect, useRef, useState } from 'preact/hooks';
import { type Session, type State, active, get, hasSession, keyName, login, logout, whenSessionEnds } from './api';
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
    whenSessionEnds((why) => {
      if (why) setTrouble(why);
      setPhase('out');
    });
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
    // Another tab logged in, or out: this one follows, and stays where it is.
    addEventListener('storage', (e) => {
      if (e.key === keyName && e.newValue) void enter();
      else if (e.key === keyName) setPhase('out');
    });
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
      <main id="main" tabIndex={-1} class={roomy(route) ? 'roomy' : ''}>
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

// roomy tells views that gain by all the width there is.
const roomy = (r: Route): boolean => r.page === 'list' || (r.page === 'vm' && (r.view === 'terminal' || r.view === 'screen'));

function skip(e: Event): void {
  e.preventDefault();
  document.getElementById('main')?.focus();
}

function Sidebar({ route, state, session, showHelp }: { route: Route; state: State | undefined; session: Session; showHelp: () => void }) {
  const here = (page: Route['page'], vm = '') => (route.page === page && route.vm === vm ? 'page' : undefined);
  const [open, setOpen] = useState(false); // where there is no room beside the content
  const menu = useRef<HTMLDivElement>(null);
  useEffect(() => {
    menu.current?.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest' });
    if (!open) return;
    setOpen(false);
    document.getElementById('main')?.focus();
  }, [route.page, route.vm, route.view]);
  return (
    <header class={`side ${open ? 'open' : ''}`}>
      <div class="top">
        <a class="brand" href="#/">
          <Seal />
          <span>UVBond</span>
        </a>
        <button type="button" class="menu" aria-expanded={open} aria-controls="menu" onClick={() => setOpen(!open)}>
          Menu
        </button>
      </div>
      <div id="menu" class="body" ref={menu}>
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

