/** The page's colours for what is drawn on a canvas: custom properties are read where CSS does not reach. */

export interface ChartTheme {
  text: string;
  grid: string;
  accent: string;
  ground: string;
  /** Of rank r, modulo their number. */
  ranks: readonly string[];
}

const RANKS = 8;

/** Read the colours that hold at an element, as the browser resolves them. */
export function readTheme(element: HTMLElement): ChartTheme {
  const probe = document.createElement('span');
  probe.hidden = true;
  element.append(probe);
  const style = getComputedStyle(probe);
  const colour = (name: string, fallback: string): string => {
    probe.style.color = `var(--nbe-${name}, ${fallback})`;
    return style.color;
  };
  const theme = {
    text: colour('fg-muted', '#59636e'),
    grid: colour('line', '#d1d9e0'),
    accent: colour('accent', '#0969da'),
    ground: colour('bg', '#ffffff'),
    ranks: Array.from({ length: RANKS }, (_, rank) => colour(`rank-${rank}`, '#0072b2'))
  };
  probe.remove();
  return theme;
}

/** Call when colours may have changed. Returns a function that ends it. */
export function onThemeChange(element: HTMLElement, listener: () => void): () => void {
  const system = window.matchMedia('(prefers-color-scheme: dark)');
  const observer = new MutationObserver(listener);
  const places = [element.closest('.nbe'), document.body, document.documentElement].filter(place => place !== null);
  for (const place of places) {
    observer.observe(place, { attributes: true, attributeFilter: ['class', 'data-theme', 'data-jp-theme-name'] });
  }
  system.addEventListener('change', listener);
  return () => {
    observer.disconnect();
    system.removeEventListener('change', listener);
  };
}
