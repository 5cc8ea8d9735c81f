// A question before something that cannot be taken back.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';

/** Sure asks. The browser gives the keyboard back to what had it before. */
export function Sure({ title, act, no, yes, children }: { title: string; act: string; yes: () => void; no: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  const answer = (call: () => void) => () => {
    dialog.current?.close();
    call();
  };
  return (
    <dialog ref={dialog} onClose={no} aria-labelledby="sure-title" aria-describedby="sure-text">
      <h2 id="sure-title">{title}</h2>
      <div id="sure-text">{children}</div>
      <div class="actions">
        <button type="button" class="danger" onClick={answer(yes)}>
          {act}
        </button>
        <button type="button" onClick={answer(no)} autofocus>
          Leave it as it is
        </button>
      </div>
    </dialog>
  );
}
