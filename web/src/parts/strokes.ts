// Text as key strokes of a US keyboard, which is what a guest has until somebody tells it
// otherwise. `uvbond vm type` does the same.

const shifted = '~!@#$%^&*()_+{}|:"<>?ABCDEFGHIJKLMNOPQRSTUVWXYZ';
const special: Record<string, number> = { '\n': 0xff0d, '\t': 0xff09 };
const shift = 0xffe1;

/** Stroke is one key, as an X11 keysym, going down or up. */
export type Stroke = [keysym: number, down: boolean];

/** strokes returns the key strokes of each character, and how many characters have none. */
export function strokes(text: string): { keys: Stroke[][]; missing: number } {
  const keys: Stroke[][] = [];
  let missing = 0;
  for (const c of text.replaceAll('\r\n', '\n')) {
    const keysym = special[c] ?? (c >= ' ' && c <= '~' ? c.charCodeAt(0) : undefined);
    if (keysym === undefined) {
      missing++;
      continue;
    }
    const press: Stroke[] = [[keysym, true], [keysym, false]];
    keys.push(shifted.includes(c) ? [[shift, true], ...press, [shift, false]] : press);
  }
  return { keys, missing };
}
