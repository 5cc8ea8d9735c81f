// Where the page is, as the address says behind its "#".
import { useEffect, useState } from 'preact/hooks';

export const views = ['overview', 'timeline', 'terminal', 'screen', 'access'] as const;
export type View = (typeof views)[number];

export interface Route {
  page: 'list' | 'vm' | 'guide';
  vm: string;
  view: View;
}

export function parse(hash: string): Route {
  const [, page, vm, view] = hash.replace(/^#/, '').split('/');
  if (page === 'vms' && vm) {
    return { page: 'vm', vm: plain(vm), view: views.find((v) => v === view) ?? 'overview' };
  }
  return { page: page === 'guide' ? 'guide' : 'list', vm: '', view: 'overview' };
}

// plain decodes a name. Whoever made the link may have made it badly.
function plain(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

export const toVM = (vm: string, view: View = 'overview'): string =>
  `#/vms/${encodeURIComponent(vm)}${view === 'overview' ? '' : `/${view}`}`;

export function useRoute(): Route {
  const [route, set] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => set(parse(location.hash));
    addEventListener('hashchange', changed);
    return () => removeEventListener('hashchange', changed);
  }, []);
  return route;
}
