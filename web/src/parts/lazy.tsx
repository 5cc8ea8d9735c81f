// Loading parts of the page when they are wanted, without a compatibility layer.
import type { ComponentChildren, FunctionComponent } from 'preact';
import { createContext } from 'preact';
import { useContext, useEffect, useState } from 'preact/hooks';
import { Notice } from './bits';

const Fallback = createContext<ComponentChildren>(null);

export const Suspense = ({ fallback, children }: { fallback: ComponentChildren; children: ComponentChildren }) => (
  <Fallback.Provider value={fallback}>{children}</Fallback.Provider>
);

export function lazy<P extends object>(load: () => Promise<FunctionComponent<P>>): FunctionComponent<P> {
  return function Lazy(props: P) {
    const [loaded, set] = useState<{ part?: FunctionComponent<P>; failed?: boolean }>({});
    const fallback = useContext(Fallback);
    useEffect(() => {
      load().then(
        (part) => set({ part }),
        () => set({ failed: true }),
      );
    }, []);
    const Part = loaded.part;
    if (loaded.failed) return <Notice kind="bad" title="This part of the page was not loaded" text="Has uvbond ui ended? Start it again, then load the page anew." />;
    return Part ? <Part {...props} /> : <>{fallback}</>;
  };
}
