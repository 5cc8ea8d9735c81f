import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { announce } from '../announce';
import { Check, Seal, Stop, Warning } from './icons';

/** Notice tells that something went well or badly, and what to do. */
export function Notice({ kind, title, text, children }: { kind: 'good' | 'warn' | 'bad'; title: string; text?: string | undefined; children?: ComponentChildren }) {
  return (
    <div class={`notice ${kind}`} role={kind === 'bad' ? 'alert' : undefined}>
      {kind === 'good' ? <Seal /> : kind === 'warn' ? <Warning /> : <Stop />}
      <div>
        <strong>{title}</strong>
        {text && <p>{text}</p>}
        {children}
      </div>
    </div>
  );
}

/** Act is a button that keeps the keyboard while it cannot be used: with the attribute "disabled" the focus would be lost. */
export function Act({ off, act, kind = '', children }: { off: boolean; act: () => void; kind?: string; children: ComponentChildren }) {
  return (
    <button type="button" class={kind} aria-disabled={off} onClick={() => !off && act()}>
      {children}
    </button>
  );
}

/** copy puts text on the clipboard, and says so. */
export const copy = (text: string): Promise<boolean> =>
  navigator.clipboard.writeText(text).then(
    () => (announce('Copied'), true),
    () => (announce('The browser does not let this page copy'), false),
  );

/** Command is a line for a terminal, with a button that copies it. */
export function Command({ text }: { text: string }) {
  const [done, set] = useState(false);
  const take = async () => {
    if (!(await copy(text))) return;
    set(true);
    setTimeout(() => set(false), 2000);
  };
  return (
    <div class="command">
      <code>{text}</code>
      <button type="button" class="quiet" onClick={() => void take()} aria-label={`Copy: ${text}`}>
        {done ? <Check /> : 'Copy'}
      </button>
    </div>
  );
}
