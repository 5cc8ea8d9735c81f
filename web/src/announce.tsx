// What happens is also said: a region that screen readers follow.
import { useEffect, useState } from 'preact/hooks';

let say: (text: string) => void = () => {};

/** announce says a sentence to who cannot see the page. */
export const announce = (text: string): void => say(text);

export function Announcer() {
  const [text, set] = useState('');
  useEffect(() => {
    say = (t) => {
      set('');
      setTimeout(() => set(t), 50); // a repeated sentence is said again
    };
    return () => {
      say = () => {};
    };
  }, []);
  return (
    <div class="hidden" role="status" aria-live="polite" id="announcer">
      {text}
    </div>
  );
}
