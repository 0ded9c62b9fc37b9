/** The small drawings: a state is told by colour, word and sign. */

const PATHS: Record<string, string> = {
  created: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11 M8 5v3.2l2 1.4',
  starting: 'M8 2.5a5.5 5.5 0 1 1-5.5 5.5',
  running: 'M5 3.2v9.6l8-4.8z',
  held: 'M5.5 3.5v9 M10.5 3.5v9',
  stacks: 'M2.5 4h8 M4.5 8h8 M6.5 12h7',
  restarting: 'M13 8a5 5 0 1 1-1.6-3.7 M13 2.5v3h-3',
  stopping: 'M4 4h8v8h-8z',
  stopped: 'M4 4h8v8h-8z',
  ended: 'M4 8h8',
  succeeded: 'M3 8.5l3.4 3.4l6.6-7.4',
  failed: 'M4 4l8 8 M12 4l-8 8',
  lost: 'M5.6 6a2.4 2.4 0 1 1 3.4 2.2c-.8.4-1 .9-1 1.6 M8 12.6v.1',
  warning: 'M8 2.5l6 11h-12z M8 6.8v3 M8 11.6v.1',
  info: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11 M8 7.4v3.2 M8 5.2v.1',
  slow: 'M8 3.5a5 5 0 1 0 0 10a5 5 0 1 0 0-10 M8 5.8v2.9h2.2 M6.6 1.5h2.8',
  silent: 'M2.5 3.5h11v7h-6l-3 2.6v-2.6h-2z M5.5 7h.1 M8 7h.1 M10.5 7h.1',
  copy: 'M5.5 5.5h8v8h-8z M10.5 5.5v-3h-8v8h3',
  folder: 'M2 4h4l1.4 1.6h6.6v7.4h-12z',
  terminal: 'M2 3h12v10h-12z M4.6 6l2 2l-2 2 M8.4 10h3',
  tab: 'M6 3h-3v10h10v-3 M9 3h4v4 M13 3l-5.6 5.6',
  saved: 'M3 2.5h8l2.5 2.5v8.5h-10.5z M5.5 2.5v3.5h4.5v-3.5 M5.5 13.5v-4h5.5v4',
  joined: 'M8 3v10 M3 8h10',
  link: 'M13 8a5 5 0 1 1-1.6-3.7 M13 2.5v3h-3',
  close: 'M4.5 4.5l7 7 M11.5 4.5l-7 7'
};

const FILLED = new Set(['running', 'stopping', 'stopped']);
const SVG = 'http://www.w3.org/2000/svg';

/** Make an icon; it is not read aloud, so a word stands beside it or in a label. */
export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('class', 'nbe-icon');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS(SVG, 'path'));
  setIcon(svg, name);
  return svg;
}

/** Turn an icon into another one. */
export function setIcon(svg: SVGSVGElement, name: string): void {
  if (svg.dataset.icon === name) {
    return;
  }
  svg.dataset.icon = name;
  svg.style.fill = FILLED.has(name) ? 'currentcolor' : '';
  svg.firstElementChild!.setAttribute('d', PATHS[name] ?? PATHS.lost!);
}
