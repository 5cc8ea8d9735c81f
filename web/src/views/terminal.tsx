import '@xterm/xterm/css/xterm.css';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal } from '@xterm/xterm';
import { useEffect, useRef, useState } from 'preact/hooks';
import { type VM, open } from '../api';
import { announce } from '../announce';
import { count, size } from '../format';
import { failureOf } from '../hooks';
import { isCopyKey, isLeaveKey, leaveKey } from '../keys';
import { useSheets } from '../sheets';
import { Act, copy, Notice } from '../parts/bits';
import { mostPasted, Typist } from '../parts/typist';

interface Viewer {
  id: number;
  name: string;
  mode: string;
  me: boolean;
}

interface Told {
  event: 'attached' | 'viewers' | 'lost' | 'typed' | 'refused' | 'reattaching' | 'end';
  viewers?: Viewer[];
  bytes?: number;
  text?: string;
  hint?: string;
  class?: string;
}

type Status = { at: 'connecting' | 'attached' | 'reattaching' | 'gone'; why?: string; hint?: string };

// What a web site put on the clipboard is text, and stays text: with control characters
// it could end a bracketed paste and have the rest executed.
const pasted = (text: string): string => text.replace(/[^\P{Cc}\t\r\n]/gu, '');

export function TerminalView({ vm }: { vm: VM }) {
  const box = useRef<HTMLDivElement>(null);
  const bar = useRef<HTMLDivElement>(null);
  const socket = useRef<WebSocket | null>(null);
  const terminal = useRef<Terminal | null>(null);
  const typist = useRef<Typist | null>(null);
  const [status, setStatus] = useState<Status>({ at: 'connecting' });
  const [viewers, setViewers] = useState<Viewer[]>([]);
  const [note, setNote] = useState('');
  const [left, setLeft] = useState(0); // of a paste, bytes
  const [chosen, setChosen] = useState(false); // text is selected
  const [turn, setTurn] = useState(0);
  const [reader, setReader] = useState(localStorage.getItem('uvbond-reader') === 'on');

  useEffect(() => {
    if (vm.ended || !box.current) return;
    useSheets();
    setStatus({ at: 'connecting' });
    setNote('');
    const term = new Terminal({
      cursorBlink: !matchMedia('(prefers-reduced-motion: reduce)').matches, fontSize: 14, scrollback: 10_000, screenReaderMode: reader, convertEol: false, minimumContrastRatio: 4.5,
      fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
      // Not even when asked: an address that the guest made up would learn who looks.
      linkHandler: { activate: (_, address) => setNote(`Links of the guest are not opened here: ${address.slice(0, 200)}`) },
      theme: { background: '#10151c', foreground: '#dde3ea', cursor: '#5ad1c4', selectionBackground: '#35506b' },
    });
    const fit = new FitAddon();
    term.loadAddon(fit);
    term.open(box.current);
    term.textarea?.setAttribute('aria-describedby', 'leave-terminal');
    fit.fit();
    terminal.current = term;
    const bytes = new TextEncoder();
    const types = new Typist((data) => socket.current?.readyState === WebSocket.OPEN && socket.current.send(data), setLeft);
    typist.current = types;
    const tell = (what: object) => socket.current?.readyState === WebSocket.OPEN && socket.current.send(JSON.stringify(what));
    // What was printed before anybody looked may hold questions to a terminal. The
    // answers would be typed into whatever runs now.
    let old = 0; // bytes to come that were printed before
    let drawing = 0; // of them, handed to the terminal and not drawn yet
    term.onData((text) => {
      if (drawing > 0 && text.startsWith('\x1b')) return;
      if (text === '\x03' && types.left > 0) {
        types.drop(); // who presses Ctrl+C means now, not when the rest was pasted
        announce('The rest of the paste is dropped');
      }
      if (!types.type(bytes.encode(text))) setNote(`${size(text.length)} are too much to paste: ${size(mostPasted)} are taken at most`);
    });
    term.onBinary((text) => types.type(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    term.onResize(({ cols, rows }) => tell({ resize: { columns: cols, rows } }));
    term.onSelectionChange(() => setChosen(term.hasSelection()));
    term.attachCustomKeyEventHandler((e) => {
      if (isLeaveKey(e)) {
        e.preventDefault();
        term.blur();
        bar.current?.focus();
        announce('You left the terminal');
        return false;
      }
      if (isCopyKey(e) && term.hasSelection()) {
        e.preventDefault();
        if (e.type === 'keydown') void copy(term.getSelection());
        return false;
      }
      return true;
    });
    const told = (t: Told) => {
      switch (t.event) {
        case 'attached':
          old = t.bytes ?? 0;
          setStatus({ at: 'attached' });
          setNote('');
          break;
        case 'viewers':
          setViewers(t.viewers ?? []);
          if (types.left > 0 && !t.viewers?.some((v) => v.me && v.mode === 'writing')) types.drop();
          break;
        case 'lost':
          setNote(`${size(t.bytes ?? 0)} of older output are no longer kept`);
          break;
        case 'typed':
          types.typed(t.bytes ?? 0);
          break;
        case 'refused':
          setNote(`${count(t.bytes ?? 0, 'typed byte')}: ${t.text || 'not taken, because somebody else writes. Take the keyboard first.'}`);
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
    const ended = (why: string) => {
      types.drop();
      setStatus((was) => (was.at === 'gone' ? was : { at: 'gone', why }));
      announce('The terminal has ended');
    };
    let gone = false;
    open(vm.name, 'console', `?cols=${term.cols}&rows=${term.rows}`).then(
      (s) => {
        if (gone) return s.close();
        socket.current = s;
        s.onopen = () => tell({ resize: { columns: term.cols, rows: term.rows } }); // it may have changed meanwhile
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
          term.write(all.subarray(before), () => tell({ taken: all.length }));
        };
        s.onclose = (e) => ended(e.reason || 'the connection ended');
      },
      (e) => !gone && ended(failureOf(e).message),
    );
    const paste = (e: ClipboardEvent) => {
      e.preventDefault();
      e.stopPropagation();
      term.paste(pasted(e.clipboardData?.getData('text/plain') ?? ''));
    };
    const around = box.current;
    around.addEventListener('paste', paste, { capture: true });
    let frame = 0; // not more often than is drawn, however the window is pulled about
    const resized = new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => fit.fit());
    });
    resized.observe(box.current);
    term.focus();
    return () => {
      gone = true;
      around.removeEventListener('paste', paste, { capture: true });
      resized.disconnect();
      cancelAnimationFrame(frame);
      if (socket.current) {
        socket.current.onclose = null;
        socket.current.close();
      }
      socket.current = null;
      terminal.current = null;
      typist.current = null;
      setLeft(0);
      setChosen(false);
      term.dispose();
    };
  }, [vm.name, vm.ended, turn, reader]);

  const me = viewers.find((v) => v.me);
  const others = viewers.filter((v) => !v.me);
  const take = () => {
    socket.current?.send(JSON.stringify({ mode: 'take' }));
    terminal.current?.focus();
  };
  const copyChosen = () => void copy(terminal.current?.getSelection() ?? '').then(() => terminal.current?.focus());
  const stop = () => {
    typist.current?.drop();
    terminal.current?.focus();
  };
  if (vm.ended) return <Notice kind="warn" title={`${vm.name} does not run`} text="Start it; its serial port can be read from the first byte on." />;
  return (
    <section aria-label={`Terminal of ${vm.name}`}>
      <div class="bar" ref={bar} role="group" aria-label="Controls of the terminal" tabIndex={-1}>
        <span class={`chip ${status.at === 'attached' ? 'run' : status.at === 'gone' ? 'bad' : 'pause'}`} role="status">
          {status.at === 'attached' ? 'attached, sealed end to end' : status.at === 'gone' ? 'ended' : status.at === 'reattaching' ? 'attaching again…' : 'connecting…'}
        </span>
        <span class="faint">
          {me?.mode === 'writing' ? 'you write' : me ? 'you look on' : ''}
          {others.length > 0 && `; also here: ${others.map((v) => `${v.name || `viewer ${v.id}`} (${v.mode})`).join(', ')}`}
          {me && others.length === 0 && `; ${count(1, 'viewer')}`}
        </span>
        <Act off={status.at !== 'attached' || me?.mode === 'writing'} act={take}>
          Take the keyboard
        </Act>
        <Act off={status.at !== 'gone'} act={() => setTurn(turn + 1)}>
          Attach again
        </Act>
        <Act off={!chosen} act={copyChosen}>
          Copy
        </Act>
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
        <span class="faint small" id="leave-terminal">
          <kbd>{leaveKey}</kbd> leaves the terminal, <kbd>Ctrl+Shift+C</kbd> copies
        </span>
      </div>
      {left > 0 && (
        <Notice kind="warn" title={`Pasting: ${size(left)} wait for the guest to read`}>
          <button type="button" onClick={stop}>
            Drop the rest
          </button>
        </Notice>
      )}
      {note && <Notice kind="warn" title={note} />}
      {status.at === 'gone' && <Notice kind="bad" title={`The terminal has ended: ${status.why}`} text={status.hint} />}
      <div class="console" ref={box} data-keys="own" />
    </section>
  );
}
