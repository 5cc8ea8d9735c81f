import { useEffect, useRef, useState } from 'preact/hooks';
import { Failure } from './api';
import { announce } from './announce';

/** usePoll asks again and again, and keeps the last answer beside the last failure. */
export function usePoll<T>(ask: () => Promise<T>, every: number, deps: readonly unknown[] = []): { data?: T; failure?: Failure; again: () => void } {
  const [data, setData] = useState<T>();
  const [failure, setFailure] = useState<Failure>();
  const [turn, setTurn] = useState(0);
  useEffect(() => setData(undefined), deps);
  useEffect(() => {
    let gone = false;
    let timer = 0;
    const round = async () => {
      try {
        const got = await ask();
        if (gone) return;
        setData(got);
        setFailure(undefined);
      } catch (e) {
        if (gone) return;
        setFailure(failureOf(e));
      }
      if (every > 0) timer = window.setTimeout(round, document.hidden ? every * 5 : every);
    };
    void round();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, [...deps, turn]);
  return { ...(data === undefined ? {} : { data }), ...(failure ? { failure } : {}), again: () => setTurn((n) => n + 1) };
}

export const failureOf = (e: unknown): Failure => (e instanceof Failure ? e : new Failure(String(e)));

/** useNow is the time in seconds, moving. */
export function useNow(every = 5000): number {
  const [now, set] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => set(Date.now() / 1000), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** useTitle names the document, and says the name to who cannot see that another view is shown. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · UVBond`;
    announce(title);
  }, [title]);
}

/** useLatest keeps the newest value for handlers that live longer. */
export function useLatest<T>(value: T): { current: T } {
  const ref = useRef(value);
  ref.current = value;
  return ref;
}
