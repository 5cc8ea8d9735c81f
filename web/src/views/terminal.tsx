import '@xterm/xterm/css/xterm.css';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef, useState } from 'preact/hooks';
import { type VM, open } from '../api';
import { announce } from '../announce';
import { count, size } from '../format';
import { isLeaveKey, leaveKey } from '../keys';
import { useSheets } from '../sheets';
import { Notice } from '../parts/bits';

interface Viewer {
  id: number;
  name: string;
  mode: string;
  me: boolean;
}

interface Told {
  event: 'attached' | 'viewers' | 'lost' | 'refused' | 'reattaching' | 'end';
  viewers?: Viewer[];
  bytes?: number;
  text?: string;
  hint?: string;
  class?: string;
}

type Status = { at: 'connecting' | 'attached' | 'reattaching' | 'gone'; why?: string; hint?: string };

// A paste is sent in pieces that the server takes.
const piece = 4096;

// What a web site put on the clipboard is text, and stays text: with control characters
// it could end a bracketed paste and have the rest executed.
const pasted = (text: string): string => text.replace(/[^\P{Cc}\t\r\n]/gu, '');

export function TerminalView({ vm }: { vm: VM }) {
  const box = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const socket = useRef<WebSocket | null>(null);
  const [status, setStatus] = useState<Status>({ at: 'connecting' });
  const [viewers, setViewers] = useState<Viewer[]>([]);
  const [note, setNote] = useState('');
  const [turn, setTurn] = useState(0);
  const [reader, setReader] = useState(localStorage.getItem('uvbond-reader') === 'on');

  useEffect(() => {
    if (vm.ended || !box.current) return;
    useSheets();
    setStatus({ at: 'connecting' });
    setNote('');
    const term = new Terminal({
      cursorBlink: true, fontSize: 14, scrollback: 10_000, screenReaderMode: reader, convertEol: false,
      fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
      // Not even when asked: an address that the guest made up would learn who looks.
      linkHandler: { activate: (_, address) => setNote(`Links of the guest are not opened here: ${address.slice(0, 200)}`) },
      theme: { background: '#10151c', foreground: '#dde3ea', cursor: '#5ad1c4', selectionBackground: '#35506b' },
    });
    const fit = new FitAddon();
    term.loadAddon(fit);
    term.open(box.current);
    fit.fit();
    const s = open(vm.name, 'console', `?cols=${term.cols}&rows=${term.rows}`);
    socket.current = s;
    const bytes = new TextEncoder();
    const send = (data: Uint8Array<ArrayBuffer>) => {
      for (let i = 0; i < data.length && s.readyState === WebSocket.OPEN; i += piece) s.send(data.slice(i, i + piece));
    };
    // What was printed before anybody looked may hold questions to a terminal. The
    // answers would be typed into whatever runs now.
    let old = 0; // bytes to come that were printed before
    let drawing = 0; // of them, handed to the terminal and not drawn yet
    term.onData((text) => {
      if (drawing === 0 || !text.startsWith('\x1b')) send(bytes.encode(text));
    });
    term.onBinary((text) => send(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    term.onResize(({ cols, rows }) => s.readyState === WebSocket.OPEN && s.send(JSON.stringify({ resize: { columns: cols, rows } })));
    term.attachCustomKeyEventHandler((e) => {
      if (!isLeaveKey(e)) return true;
      e.preventDefault();
      term.blur();
      button.current?.focus();
      announce('You left the terminal');
      return false;
    });
    s.onmessage = ({ data }) => {
      if (typeof data === 'string') return told(JSON.parse(data));
      // The server sends more only when what it sent was dealt with.
      const all = new Uint8Array(data as ArrayBuffer);
      const before = Math.min(old, all.length);
      old -= before;
      if (before > 0) {
        drawing += before;
        term.write(all.subarray(0, before), () => (drawing -= before));
      }
      term.write(all.subarray(before), () => s.readyState === WebSocket.OPEN && s.send(JSON.stringify({ taken: all.length })));
    };
    const told = (t: Told) => {
      switch (t.event) {
        case 'attached':
          old = t.bytes ?? 0;
          setStatus({ at: 'attached' });
          setNote('');
          break;
        case 'viewers':
          setViewers(t.viewers ?? []);
          break;
        case 'lost':
          setNote(`${size(t.bytes ?? 0)} of older output are no longer kept`);
          break;
        case 'refused':
          setNote(`${count(t.bytes ?? 0, 'typed byte')}: ${t.text || 'not taken. Either somebody else writes (then take the keyboard), or too much waits for a guest that does not read.'}`);
          announce('What you typed was not taken');
          break;
        case 'reattaching':
          setStatus({ at: 'reattaching', why: t.text ?? '' });
          announce('The connection was lost; attaching again');
          break;
        case 'end':
          setStatus({ at: 'gone', why: t.text ?? '', hint: t.hint ?? '' });
          break;
      }
    };
    s.onclose = (e) => {
      setStatus((was) => (was.at === 'gone' ? was : { at: 'gone', why: e.reason || 'the connection ended' }));
      announce('The terminal has ended');
    };
    const paste = (e: ClipboardEvent) => {
      e.preventDefault();
      e.stopPropagation();
      term.paste(pasted(e.clipboardData?.getData('text/plain') ?? ''));
    };
    const around = box.current;
    around.addEventListener('paste', paste, { capture: true });
    const resized = new ResizeObserver(() => fit.fit());
    resized.observe(box.current);
    term.focus();
    return () => {
      around.removeEventListener('paste', paste, { capture: true });
      resized.disconnect();
      s.onclose = null;
      s.close();
      term.dispose();
    };
  }, [vm.name, vm.ended, turn, reader]);

  const me = viewers.find((v) => v.me);
  const others = viewers.filter((v) => !v.me);
  const take = () => {
    socket.current?.send(JSON.stringify({ mode: 'take' }));
    (box.current?.querySelector('textarea') as HTMLElement | null)?.focus();
  };
  if (vm.ended) return <Notice kind="warn" title={`${vm.name} does not run`} text="Start it; its serial port can be read from the first byte on." />;
  return (
    <section aria-label={`Terminal of ${vm.name}`}>
      <div class="bar">
        <span class={`chip ${status.at === 'attached' ? 'run' : status.at === 'gone' ? 'bad' : 'pause'}`} role="status">
          {status.at === 'attached' ? 'attached, sealed end to end' : status.at === 'gone' ? 'ended' : status.at === 'reattaching' ? 'attaching again…' : 'connecting…'}
        </span>
        <span class="faint">
          {me?.mode === 'writing' ? 'you write' : me ? 'you look on' : ''}
          {others.length > 0 && `; also here: ${others.map((v) => `${v.name || `viewer ${v.id}`} (${v.mode})`).join(', ')}`}
          {me && others.length === 0 && `; ${count(1, 'viewer')}`}
        </span>
        <button ref={button} type="button" onClick={take} disabled={status.at !== 'attached' || me?.mode === 'writing'}>
          Take the keyboard
        </button>
        <button type="button" onClick={() => setTurn(turn + 1)} disabled={status.at !== 'gone'}>
          Attach again
        </button>
        <label class="check">
          <input
            type="checkbox"
            checked={reader}
            onChange={() => {
              localStorage.setItem('uvbond-reader', reader ? 'off' : 'on');
              setReader(!reader);
            }}
          />{' '}
          for screen readers
        </label>
        <span class="faint small">
          <kbd>{leaveKey}</kbd> leaves the terminal
        </span>
      </div>
      {note && <Notice kind="warn" title={note} />}
      {status.at === 'gone' && <Notice kind="bad" title={`The terminal has ended: ${status.why}`} text={status.hint} />}
      <div class="console" ref={box} data-keys="own" />
    </section>
  );
}
