import RFB from '@novnc/novnc';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { type VM, open } from '../api';
import { announce } from '../announce';
import { count } from '../format';
import { failureOf, useLatest } from '../hooks';
import { isLeaveKey, leaveKey } from '../keys';
import { Act, Notice } from '../parts/bits';
import { strokes } from '../parts/strokes';

type Status = { at: 'connecting' | 'connected' | 'again' | 'gone'; why?: string };

// A screen that is lost is looked for again, each time after a longer pause, seconds.
const pauses = [1, 2, 5, 10, 20];
const steady = 10_000; // a connection that lasted so long begins from the shortest

const final = (why: string): boolean => /^(forged|refused|usage)\b/.test(why) || why === 'the session ended';

export function ScreenView({ vm }: { vm: VM }) {
  const box = useRef<HTMLDivElement>(null);
  const bar = useRef<HTMLDivElement>(null);
  const rfb = useRef<RFB | null>(null);
  const tries = useRef(0);
  const [status, setStatus] = useState<Status>({ at: 'connecting' });
  const [turn, setTurn] = useState(0);
  const [look, setLook] = useState(false);
  const [whole, setWhole] = useState(true);
  const [asking, setAsking] = useState(false);
  const [typing, setTyping] = useState(0); // characters to come
  const now = useLatest({ look, whole });

  useEffect(() => {
    if (vm.ended || !vm.screen || !box.current) return;
    let gone = false;
    let timer = 0;
    let since = 0;
    let r: RFB | undefined;
    const lost = (why: string) => {
      if (gone) return;
      if (since && Date.now() - since > steady) tries.current = 0;
      since = 0;
      const pause = pauses[tries.current++];
      if (final(why) || pause === undefined) {
        setStatus({ at: 'gone', why });
        announce('The screen is gone');
        return;
      }
      setStatus({ at: 'again', why });
      timer = window.setTimeout(() => setTurn((n) => n + 1), pause * 1000);
    };
    setStatus((was) => (was.at === 'again' ? was : { at: 'connecting' }));
    open(vm.name, 'screen').then(
      (socket) => {
        if (gone || !box.current) return socket.close();
        let why = '';
        socket.addEventListener('close', (e) => (why = e.reason));
        r = new RFB(box.current, socket, { shared: true });
        rfb.current = r;
        r.scaleViewport = now.current.whole;
        r.focusOnClick = true;
        r.viewOnly = now.current.look;
        r.background = 'transparent';
        reachable(box.current, vm.name);
        r.addEventListener('connect', () => {
          since = Date.now();
          setStatus({ at: 'connected' });
          announce(`The screen of ${vm.name} is shown`);
        });
        // The socket's reason comes with an event of its own.
        r.addEventListener('disconnect', () => setTimeout(() => lost(why || 'the connection ended'), 50));
      },
      (e) => lost(failureOf(e).message),
    );
    return () => {
      gone = true;
      clearTimeout(timer);
      rfb.current = null;
      try {
        r?.disconnect();
      } catch {
        // it was not connected yet
      }
    };
  }, [vm.name, vm.ended, turn]);
  useLayoutEffect(() => { // at once: the next key may be pressed already
    if (!rfb.current) return;
    rfb.current.viewOnly = look;
    rfb.current.scaleViewport = whole;
  }, [look, whole]);

  const leave = (e: KeyboardEvent) => {
    if (!isLeaveKey(e)) return;
    e.preventDefault();
    e.stopPropagation();
    rfb.current?.blur();
    bar.current?.focus();
    announce('You left the screen');
  };
  const save = () => {
    rfb.current?.toBlob((blob) => {
      if (!blob) return;
      const a = document.createElement('a');
      a.href = URL.createObjectURL(blob);
      a.download = `${vm.name}.png`;
      a.click();
      setTimeout(() => URL.revokeObjectURL(a.href), 10_000);
    }, 'image/png');
  };
  const type = async (text: string) => {
    const { keys, missing } = strokes(text);
    const to = rfb.current;
    for (const [i, key] of keys.entries()) {
      if (!to || rfb.current !== to) break; // another connection, or none
      setTyping(keys.length - i);
      for (const [keysym, down] of key) to.sendKey(keysym, null, down);
      await new Promise((done) => setTimeout(done, 25)); // a keyboard's buffer is small
    }
    setTyping(0);
    announce(missing ? `Typed, without ${count(missing, 'character')} that a US keyboard does not have` : 'Typed');
    rfb.current?.focus();
  };
  if (vm.ended) return <Notice kind="warn" title={`${vm.name} does not run`} text="Start it; its screen can be seen from the first moment." />;
  if (!vm.screen) return <Notice kind="warn" title={`${vm.name} has no screen`} text="It was registered without one. Its console is in the terminal." />;
  const on = status.at === 'connected';
  return (
    <section aria-label={`Screen of ${vm.name}`}>
      <div class="bar" ref={bar} role="group" aria-label="Controls of the screen" tabIndex={-1}>
        <span class={`chip ${on ? 'run' : status.at === 'gone' ? 'bad' : 'pause'}`} role="status">
          {on ? 'connected, sealed end to end' : status.at === 'gone' ? 'gone' : status.at === 'again' ? 'connecting again…' : 'connecting…'}
        </span>
        <Act off={!on || look} act={() => rfb.current?.sendCtrlAltDel()}>
          Ctrl+Alt+Del
        </Act>
        <Act off={!on || look || typing > 0} act={() => setAsking(true)}>
          {typing > 0 ? `Typing, ${typing} to come` : 'Type a text'}
        </Act>
        <Act off={!on} act={save}>
          Save a picture
        </Act>
        <Act off={!on} act={() => void box.current?.requestFullscreen()}>
          Full screen
        </Act>
        <Act
          off={on || status.at === 'connecting'}
          act={() => {
            tries.current = 0;
            setTurn(turn + 1);
          }}
        >
          Connect again
        </Act>
        <label class="check">
          <input type="checkbox" checked={look} onChange={() => setLook(!look)} /> only look
        </label>
        <label class="check">
          <input type="checkbox" checked={whole} onChange={() => setWhole(!whole)} /> fit into the window
        </label>
        <span class="faint small" id="leave-screen">
          <kbd>{leaveKey}</kbd> gives the keyboard back
        </span>
      </div>
      {status.at === 'again' && <Notice kind="warn" title={`The screen was lost: ${status.why}`} text="It is looked for again by itself." />}
      {status.at === 'gone' && <Notice kind="bad" title={`The screen is not shown: ${status.why}`} text={status.why?.startsWith('forged') ? 'Do not type secrets into this machine until it is explained; the time line shows what the hypervisor recorded.' : undefined} />}
      <div class={`screen ${on ? 'on' : ''}`} ref={box} data-keys="own" onKeyDownCapture={leave} />
      {asking && <TypeText close={() => setAsking(false)} type={(text) => void type(text)} />}
    </section>
  );
}

// reachable makes a screen something that Tab leads to, and that has a name.
function reachable(box: HTMLElement, name: string): void {
  const canvas = box.querySelector('canvas');
  if (!canvas) return;
  canvas.tabIndex = 0;
  canvas.setAttribute('role', 'application');
  canvas.setAttribute('aria-label', `Screen of ${name}`);
  canvas.setAttribute('aria-describedby', 'leave-screen');
}

// TypeText asks for a text. What it says goes nowhere else, and is not kept.
function TypeText({ close, type }: { close: () => void; type: (text: string) => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const text = useRef<HTMLTextAreaElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const go = () => {
    const typed = text.current?.value ?? '';
    dialog.current?.close();
    if (typed) type(typed);
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="type-title">
      <h2 id="type-title">Type a text</h2>
      <p>
        <label for="type-text">A screen has no clipboard. Paste here what is to be typed, as by a US keyboard:</label>
      </p>
      <textarea id="type-text" ref={text} rows={5} maxLength={4096} autocomplete="off" spellcheck={false} autofocus />
      <div class="actions">
        <button type="button" class="main" onClick={go}>
          Type it
        </button>
        <button type="button" onClick={() => dialog.current?.close()}>
          Cancel
        </button>
      </div>
    </dialog>
  );
}
