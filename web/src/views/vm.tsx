import { useEffect, useRef, useState } from 'preact/hooks';
import { lazy, Suspense } from '../parts/lazy';
import type { State } from '../api';
import { useTitle } from '../hooks';
import { type Route, type View, toVM } from '../route';
import { Clock, Eye, Keys, Monitor, Terminal } from '../parts/icons';
import { Notice } from '../parts/bits';
import { StateDot, stateText } from '../parts/state';
import { AccessView } from './access';
import { type Course, OverviewView } from './overview';
import { TimelineView } from './timeline';

// The two that bring a library of their own are loaded when they are wanted.
const TerminalView = lazy(() => import('./terminal').then((m) => m.TerminalView));
const ScreenView = lazy(() => import('./screen').then((m) => m.ScreenView));

const tabs: { view: View; text: string; icon: typeof Eye }[] = [
  { view: 'overview', text: 'Overview', icon: Eye },
  { view: 'timeline', text: 'Time line', icon: Clock },
  { view: 'terminal', text: 'Terminal', icon: Terminal },
  { view: 'screen', text: 'Screen', icon: Monitor },
  { view: 'access', text: 'Access', icon: Keys },
];

export function VMView({ route, state, again }: { route: Route; state: State; again: () => void }) {
  const vm = state.vms.find((v) => v.name === route.vm);
  const [course, setCourse] = useState<Course>(); // it goes on while another view is looked at
  const nav = useRef<HTMLElement>(null);
  useEffect(() => {
    const here = nav.current?.querySelector<HTMLElement>('[aria-current]');
    if (here) nav.current!.scrollLeft = here.offsetLeft - nav.current!.offsetLeft - 40; // where they do not all fit
  }, [route.view]);
  useTitle(`${route.vm}: ${tabs.find((t) => t.view === route.view)?.text}`);
  if (!vm) return <Notice kind="bad" title={`There is no machine ${route.vm} on this computer`} text="It may have been deleted. All machines are in the list." />;
  return (
    <>
      <div class="head">
        <h1>{vm.name}</h1>
        <span class="chip plain">
          <StateDot vm={vm} /> {stateText(vm)}
        </span>
      </div>
      <nav class="tabs" ref={nav} aria-label={`Views of ${vm.name}`}>
        {tabs.map(({ view, text, icon: Icon }) => (
          <a key={view} href={toVM(vm.name, view)} aria-current={route.view === view ? 'page' : undefined}>
            <Icon /> {text}
          </a>
        ))}
      </nav>
      <Suspense fallback={<p class="faint">Loading…</p>}>
        {route.view === 'overview' && <OverviewView vm={vm} again={again} course={course} setCourse={setCourse} />}
        {route.view === 'timeline' && <TimelineView vm={vm} />}
        {route.view === 'terminal' && <TerminalView vm={vm} />}
        {route.view === 'screen' && <ScreenView vm={vm} />}
        {route.view === 'access' && <AccessView vm={vm} />}
      </Suspense>
    </>
  );
}
