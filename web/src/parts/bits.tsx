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

/** Command is a line for a terminal, with a button that copies it. */
export function Command({ text }: { text: string }) {
  const [done, set] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text).then(
      () => {
        set(true);
        announce('Copied');
        setTimeout(() => set(false), 2000);
      },
      () => announce('The browser does not let this page copy'),
    );
  };
  return (
    <div class="command">
      <code>{text}</code>
      <button type="button" class="quiet" onClick={() => void copy()} aria-label={`Copy: ${text}`}>
        {done ? <Check /> : 'Copy'}
      </button>
    </div>
  );
}
