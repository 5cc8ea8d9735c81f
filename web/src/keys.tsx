// Keys for who does not use a mouse. Single letters can be switched off, since
// some people speak to their machine.
import { useEffect, useRef, useState } from 'preact/hooks';
import { type Route, type View, toVM } from './route';
import { useLatest } from './hooks';

const name = 'uvbond-keys';
export const enabled = (): boolean => localStorage.getItem(name) !== 'off';

/** leaveKey is how terminal and screen give the keyboard back. */
export const leaveKey = 'Ctrl+Shift+↑';
export const isLeaveKey = (e: KeyboardEvent): boolean => e.type === 'keydown' && e.ctrlKey && e.shiftKey && e.key === 'ArrowUp';

/** isCopyKey is how a terminal copies what is selected: Ctrl+C is the guest's. */
export const isCopyKey = (e: KeyboardEvent): boolean => e.ctrlKey && ((e.shiftKey && e.code === 'KeyC') || (!e.shiftKey && e.key === 'Insert'));

const places: Record<string, View> = { o: 'overview', t: 'timeline', c: 'terminal', s: 'screen', a: 'access' };

/** useKeys handles the page's own keys. */
export function useKeys(route: Route, help: () => void): void {
  const now = useLatest({ route, help });
  useEffect(() => {
    let went = 0;
    const pressed = (e: KeyboardEvent) => {
      const target = e.target as Element;
      if (!enabled() || e.ctrlKey || e.altKey || e.metaKey || target.closest('input:not([type=radio]):not([type=checkbox]), textarea, select, dialog, [data-keys=own]')) return;
      if (e.key === '?') {
        e.preventDefault();
        now.current.help();
      } else if (e.key === 'g') {
        went = Date.now();
      } else if (Date.now() - went < 1500) {
        went = 0;
        const { route } = now.current;
        const view = places[e.key];
        if (e.key === 'l') location.hash = '#/';
        else if (e.key === 'h') location.hash = '#/guide';
        else if (view && route.page === 'vm') location.hash = toVM(route.vm, view);
        else return;
        e.preventDefault();
      }
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);
}

const rows: [string, string][] = [
  ['Tab, Shift+Tab', 'go through everything that can be used'],
  ['g then l', 'all machines'],
  ['g then h', 'guide and doctor'],
  ['g then o', 'overview of the machine'],
  ['g then t', 'time line'],
  ['g then c', 'terminal (console)'],
  ['g then s', 'screen'],
  ['g then a', 'access'],
  [leaveKey, 'leave the terminal or the screen, to its controls'],
  ['Ctrl+Shift+C, Ctrl+Insert', 'copy what is selected in the terminal'],
  ['Ctrl+Shift+V, Shift+Insert', 'paste into the terminal'],
  ['?', 'this help'],
];

export function KeysHelp({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [on, set] = useState(enabled());
  useEffect(() => dialog.current?.showModal(), []);
  const turn = () => {
    localStorage.setItem(name, on ? 'off' : 'on');
    set(!on);
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="keys-title">
      <h2 id="keys-title">Keyboard</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">Keys</th>
            <th scope="col">What they do</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(([keys, what]) => (
            <tr key={keys}>
              <td>
                <kbd>{keys}</kbd>
              </td>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <label class="check">
        <input type="checkbox" checked={on} onChange={turn} /> Single letters work as keys
      </label>
      <form method="dialog">
        <button class="main">Close</button>
      </form>
    </dialog>
  );
}
