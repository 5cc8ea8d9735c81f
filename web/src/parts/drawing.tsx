// The drawing of an automaton, as the Go package makes it.
import { useEffect, useRef } from 'preact/hooks';

// It brings a style of its own, for files; here the page's holds, which knows dark
// and light, and nothing inline is allowed to.
function parse(svg: string): SVGSVGElement | null {
  const root = new Reader().read(svg);
  root?.querySelectorAll('style').forEach((s) => s.remove());
  root?.querySelector(':scope > rect')?.remove();
  return root;
}

// Reader builds the few elements that a drawing has by name, so that no text
// becomes markup: the browser enforces that for the whole page.
class Reader {
  private static readonly allowed = new Set(['svg', 'title', 'defs', 'marker', 'path', 'rect', 'g', 'circle', 'text', 'style']);
  private static readonly entities: Record<string, string> = { '&lt;': '<', '&gt;': '>', '&amp;': '&', '&#34;': '"', '&#39;': "'" };

  read(text: string): SVGSVGElement | null {
    const stack: Element[] = [];
    let root: Element | null = null;
    for (const [, closing, name, attributes, self, words] of text.matchAll(/<(\/?)([a-z]+)((?:\s+[A-Za-z:-]+="[^"]*")*)\s*(\/?)>|([^<]+)/g)) {
      if (words !== undefined) {
        stack.at(-1)?.append(this.plain(words));
        continue;
      }
      if (closing) {
        stack.pop();
        continue;
      }
      if (!name || !Reader.allowed.has(name)) return null;
      const element = document.createElementNS('http://www.w3.org/2000/svg', name);
      for (const [, key, value] of (attributes ?? '').matchAll(/([A-Za-z:-]+)="([^"]*)"/g)) {
        if (key && key !== 'xmlns' && key !== 'style' && !key.startsWith('on') && !key.includes(':')) element.setAttribute(key, this.plain(value ?? ''));
      }
      if (root === null) root = element;
      else stack.at(-1)?.append(element);
      if (!self) stack.push(element);
    }
    return root instanceof SVGSVGElement ? root : null;
  }

  private plain(text: string): string {
    return text.replace(/&(?:lt|gt|amp|#34|#39);/g, (e) => Reader.entities[e] ?? e);
  }
}

/** Drawing shows an automaton. A new state of the same one moves the marks only, so that the eye can follow. */
export function Drawing({ svg, label }: { svg: string; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const next = parse(svg);
    const into = box.current;
    if (!next || !into) return;
    next.setAttribute('aria-label', label);
    const old = into.firstElementChild;
    const was = old ? [old, ...old.querySelectorAll('*')] : [];
    const is = [next, ...next.querySelectorAll('*')];
    if (was.length === is.length && was.every((e, i) => e.tagName === is[i]!.tagName)) {
      was.forEach((e, i) => {
        const c = is[i]!.getAttribute('class');
        if (c !== null) e.setAttribute('class', c);
      });
      old!.setAttribute('aria-label', label);
    } else {
      into.replaceChildren(next);
    }
    into.querySelector('.current')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }, [svg, label]);
  return <div class="drawing" ref={box} tabIndex={0} role="group" aria-label="Drawing of the automaton" />;
}
