// Dark or light: as the system says, unless a person chose.

export type Theme = 'system' | 'light' | 'dark';
const name = 'uvbond-theme';

export function theme(): Theme {
  const kept = localStorage.getItem(name);
  return kept === 'light' || kept === 'dark' ? kept : 'system';
}

export function applyTheme(chosen: Theme = theme()): void {
  if (chosen === 'system') {
    localStorage.removeItem(name);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(name, chosen);
    document.documentElement.dataset.theme = chosen;
  }
}
