// How things are written for people.

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const hour = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const date = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' });

/** stamp writes a moment, given in milliseconds. */
export const stamp = (ms: number): string => exact.format(ms);
export const clock = (ms: number): string => hour.format(ms);
export const day = (ms: number): string => date.format(ms);

/** ago writes how long ago something was, seconds. */
export function ago(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 10) return 'just now';
  if (s < 60) return 'moments ago'; // seconds that count make every line restless
  if (s < 90) return 'a minute ago';
  if (s < 90 * 60) return `${Math.round(s / 60)} minutes ago`;
  if (s < 36 * 3600) return `${Math.round(s / 3600)} hours ago`;
  return `${Math.round(s / 86400)} days ago`;
}

/** size writes a number of bytes. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let n = bytes;
  let u = 0;
  while (n >= 1024 && u < units.length - 1) {
    n /= 1024;
    u++;
  }
  return `${Number(n.toFixed(1))} ${units[u]}`;
}

const number = new Intl.NumberFormat();
export const count = (n: number, one: string): string => `${number.format(n)} ${one}${n === 1 ? '' : 's'}`;

export const capital = (s: string): string => s.charAt(0).toUpperCase() + s.slice(1);
