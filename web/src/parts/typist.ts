// Typing into a console that may be slow to read: what is pasted waits here, and goes on
// as the hypervisor says that it was typed.

const piece = 4096; // bytes of a message
const window = 32 << 10; // bytes under way

/** mostPasted is how much may wait, bytes. */
export const mostPasted = 4 << 20;

export class Typist {
  private waiting: Uint8Array<ArrayBuffer>[] = [];
  private underWay = 0;
  /** left is how much waits, bytes. */
  left = 0;

  constructor(
    private readonly send: (data: Uint8Array<ArrayBuffer>) => void,
    private readonly moved: (left: number) => void,
  ) {}

  /** type sends data, or keeps it until there is room; false: it is too much. */
  type(data: Uint8Array<ArrayBuffer>): boolean {
    if (this.left + data.length > mostPasted) return false;
    for (let i = 0; i < data.length; i += piece) this.waiting.push(data.slice(i, i + piece));
    this.left += data.length;
    this.go();
    return true;
  }

  /** typed notes that so many bytes were dealt with. */
  typed(bytes: number): void {
    this.underWay = Math.max(0, this.underWay - bytes);
    this.go();
  }

  /** drop forgets what waits. */
  drop(): void {
    this.waiting = [];
    this.left = 0;
    this.moved(0);
  }

  private go(): void {
    while (this.waiting.length > 0 && this.underWay < window) {
      const next = this.waiting.shift()!;
      this.left -= next.length;
      this.underWay += next.length;
      this.send(next);
    }
    this.moved(this.left);
  }
}
