import RFB from '@novnc/novnc';
import { useEffect, useRef, useState } from 'preact/hooks';
import { type VM, open } from '../api';
import { announce } from '../announce';
import { useLatest } from '../hooks';
import { isLeaveKey, leaveKey } from '../keys';
import { Notice } from '../parts/bits';

type Status = { at: 'connecting' | 'connected' | 'gone'; why?: string };

export function ScreenView({ vm }: { vm: VM }) {
  const box = useRef<HTMLDivElement>(null);
  const buttons = useRef<HTMLButtonElement>(null);
  const rfb = useRef<RFB | null>(null);
  const [status, setStatus] = useState<Status>({ at: 'connecting' });
  const [turn, setTurn] = useState(0);
  const [look, setLook] = useState(false);
  const looking = useLatest(look);

  useEffect(() => {
    if (vm.ended || !vm.screen || !box.current) return;
    setStatus({ at: 'connecting' });
    const socket = open(vm.name, 'screen');
    let why = '';
    socket.addEventListener('close', (e) => (why = e.reason));
    const r = new RFB(box.current, socket, { shared: true });
    rfb.current = r;
    r.scaleViewport = true;
    r.focusOnClick = true;
    r.viewOnly = looking.current;
    r.background = 'transparent';
    r.addEventListener('connect', () => {
      setStatus({ at: 'connected' });
      announce(`The screen of ${vm.name} is shown`);
    });
    r.addEventListener('disconnect', () => {
      if (rfb.current !== r) return; // it was left
      // The socket's reason comes with an event of its own.
      setTimeout(() => rfb.current === r && setStatus({ at: 'gone', why: why || 'the connection ended' }), 50);
      announce('The screen is gone');
    });
    return () => {
      rfb.current = null;
      try {
        r.disconnect();
      } catch {
        socket.close();
      }
    };
  }, [vm.name, vm.ended, turn]);
  useEffect(() => {
    if (rfb.current) rfb.current.viewOnly = look;
  }, [look]);

  const keys = (e: KeyboardEvent) => {
    if (!isLeaveKey(e)) return;
    e.preventDefault();
    e.stopPropagation();
    rfb.current?.blur();
    buttons.current?.focus();
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
  if (vm.ended) return <Notice kind="warn" title={`${vm.name} does not run`} text="Start it; its screen can be seen from the first moment." />;
  if (!vm.screen) return <Notice kind="warn" title={`${vm.name} has no screen`} text="It was registered without one. Its console is in the terminal." />;
  const on = status.at === 'connected';
  return (
    <section aria-label={`Screen of ${vm.name}`}>
      <div class="bar">
        <span class={`chip ${on ? 'run' : status.at === 'gone' ? 'bad' : 'pause'}`} role="status">
          {on ? 'connected, sealed end to end' : status.at === 'gone' ? 'gone' : 'connecting…'}
        </span>
        <button ref={buttons} type="button" onClick={() => rfb.current?.sendCtrlAltDel()} disabled={!on || look}>
          Ctrl+Alt+Del
        </button>
        <button type="button" onClick={save} disabled={!on}>
          Save a picture
        </button>
        <button type="button" onClick={() => void box.current?.requestFullscreen()} disabled={!on}>
          Full screen
        </button>
        <button type="button" onClick={() => setTurn(turn + 1)} disabled={status.at !== 'gone'}>
          Connect again
        </button>
        <label class="check">
          <input type="checkbox" checked={look} onChange={() => setLook(!look)} /> only look
        </label>
        <span class="faint small">
          <kbd>{leaveKey}</kbd> gives the keyboard back
        </span>
      </div>
      {status.at === 'gone' && <Notice kind="bad" title={`The screen is not shown: ${status.why}`} text={status.why?.startsWith('forged') ? 'Do not type secrets into this machine until it is explained; the time line shows what the hypervisor recorded.' : undefined} />}
      <div class={`screen ${on ? 'on' : ''}`} ref={box} data-keys="own" onKeyDownCapture={keys} />
    </section>
  );
}
