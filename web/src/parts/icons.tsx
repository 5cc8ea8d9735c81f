// Pictures, drawn here: the page loads nothing. They are decoration; words stand beside them.
import type { ComponentChildren } from 'preact';

const Icon = ({ children }: { children: ComponentChildren }) => (
  <svg class="icon" viewBox="0 0 24 24" width="20" height="20" fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
    {children}
  </svg>
);

export const Seal = () => (
  <Icon>
    <path d="M12 2.5 4.5 5.500v6c0 5 3.2 8.3 7.5 10 4.3-1.7 7.5-5 7.5-10v-6z" />
    <path d="m8.5 12 2.5 2.5 4.7-5" />
  </Icon>
);
export const Question = () => (
  <Icon>
    <circle cx="12" cy="12" r="9" stroke-dasharray="3.2 2.6" />
    <path d="M9.5 9.500a2.5 2.5 0 1 1 3.5 2.300c-.7.4-1 .9-1 1.700M12 16.500v.1" />
  </Icon>
);
export const Stop = () => (
  <Icon>
    <circle cx="12" cy="12" r="9" />
    <path d="m6 6 12 12" />
  </Icon>
);
export const Warning = () => (
  <Icon>
    <path d="M12 4 2.8 19.500h18.400zM12 10v4.500M12 17v.1" />
  </Icon>
);
export const Play = () => (
  <Icon>
    <path d="M7 4.500v15l12-7.500z" />
  </Icon>
);
export const Pause = () => (
  <Icon>
    <path d="M8 5v14M16 5v14" />
  </Icon>
);
export const Power = () => (
  <Icon>
    <path d="M12 3v9M7 6a8 8 0 1 0 10 0" />
  </Icon>
);
export const Again = () => (
  <Icon>
    <path d="M20 11a8 8 0 1 0-2.3 6.300M20 4.500V11h-6.5" />
  </Icon>
);
export const Bolt = () => (
  <Icon>
    <path d="M13 2.5 5 13.500h6l-1 8 8-11h-6z" />
  </Icon>
);
export const Eye = () => (
  <Icon>
    <path d="M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12z" />
    <circle cx="12" cy="12" r="2.7" />
  </Icon>
);
export const Server = () => (
  <Icon>
    <rect x="3.5" y="4" width="17" height="7" rx="1.5" />
    <rect x="3.5" y="13" width="17" height="7" rx="1.5" />
    <path d="M7 7.500h.1M7 16.500h.1" />
  </Icon>
);
export const Clock = () => (
  <Icon>
    <circle cx="12" cy="12" r="9" />
    <path d="M12 7v5l3.5 2" />
  </Icon>
);
export const Terminal = () => (
  <Icon>
    <rect x="3" y="4.5" width="18" height="15" rx="2" />
    <path d="m7 9.5 3 2.5-3 2.500M12.5 15H17" />
  </Icon>
);
export const Monitor = () => (
  <Icon>
    <rect x="3" y="4" width="18" height="12" rx="2" />
    <path d="M9 20h6M12 16v4" />
  </Icon>
);
export const Keys = () => (
  <Icon>
    <circle cx="8" cy="15.5" r="4" />
    <path d="m11 12.5 8.5-8.500M16 7.500l2.5 2.5" />
  </Icon>
);
export const Compass = () => (
  <Icon>
    <circle cx="12" cy="12" r="9" />
    <path d="m15.5 8.5-2 5-5 2 2-5z" />
  </Icon>
);
export const Sun = () => (
  <Icon>
    <circle cx="12" cy="12" r="4" />
    <path d="M12 2.500v2M12 19.500v2M2.5 12h2M19.5 12h2M5.3 5.300l1.4 1.400M17.3 17.300l1.4 1.400M18.7 5.300l-1.4 1.400M6.7 17.300l-1.4 1.4" />
  </Icon>
);
export const Moon = () => (
  <Icon>
    <path d="M20 14.500A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.500z" />
  </Icon>
);
export const Leave = () => (
  <Icon>
    <path d="M10 4H5v16h5M15 8l4 4-4 4M19 12H9.5" />
  </Icon>
);
export const Keyboard = () => (
  <Icon>
    <rect x="2.5" y="6" width="19" height="12" rx="2" />
    <path d="M6 10h.1M10 10h.1M14 10h.1M18 10h.1M7.5 14h9" />
  </Icon>
);
export const Check = () => (
  <Icon>
    <path d="m4.5 12.5 5 5 10-11" />
  </Icon>
);
