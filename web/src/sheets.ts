// xterm.js makes <style> elements while it runs, which the page's policy forbids,
// as it should: an attacker's text could become style the same way. Here each such
// element is replaced by one that gives its text to a constructed style sheet,
// which needs a script of this origin to make and is allowed.

class Sheet extends HTMLElement {
  private readonly sheet = new CSSStyleSheet();
  override set textContent(text: string | null) {
    this.sheet.replaceSync(text ?? '');
  }
  override get textContent(): string {
    return '';
  }
  connectedCallback(): void {
    this.hidden = true;
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, this.sheet];
  }
  disconnectedCallback(): void {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((s) => s !== this.sheet);
  }
}

// It also writes the colours that are none of its palette (24 bit, or mended for contrast)
// into style attributes, which the policy forbids too. Through the element's style object,
// which takes properties only, they are allowed.
function styleSpans(): void {
  HTMLSpanElement.prototype.setAttribute = function (this: HTMLSpanElement, name: string, value: string) {
    if (name.toLowerCase() === 'style') this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

/** useSheets replaces style elements that are made from now on, and style attributes of spans. */
export function useSheets(): void {
  if (customElements.get('uvbond-sheet')) return;
  customElements.define('uvbond-sheet', Sheet);
  styleSpans();
  const make = document.createElement;
  document.createElement = function (this: Document, name: string, options?: ElementCreationOptions) {
    return make.call(document, name.toLowerCase() === 'style' ? 'uvbond-sheet' : name, options);
  } as typeof document.createElement;
}
