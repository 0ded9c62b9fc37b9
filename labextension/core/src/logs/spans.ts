/** A line's text as elements: its colours, what was searched for, and links to the cell. */

import { h } from '../dom.js';
import type { Host } from '../source.js';
import { parseAnsi, type Colour, type Span, type Style } from './ansi.js';
import { showControls } from './text.js';

/** `Cell In[12], line 7` of IPython's tracebacks, `File "Cell In[12]", line 7` of Python's. */
const CELL_LINE = /(Cell In ?\[\d+\])"?,? line (\d+)/g;
const MAX_HITS = 200;

interface Piece {
  start: number;
  end: number;
  link?: { label: string; line: number };
}

/** Draw a text with its colours, hits marked by `pattern`. */
export function drawText(text: string, pattern: RegExp | undefined, host: Host): DocumentFragment {
  const spans = parseAnsi(text).map(span => ({ ...span, text: showControls(span.text) }));
  const plain = spans.map(span => span.text).join('');
  const hits = pattern === undefined ? [] : hitsOf(plain, pattern);
  const links = host.openCell === undefined || !plain.includes('Cell In') ? [] : linksOf(plain);
  const fragment = document.createDocumentFragment();
  let start = 0;
  for (const span of spans) {
    const cuts = cutsOf([...hits, ...links], start, start + span.text.length);
    for (let at = 0; at + 1 < cuts.length; at++) {
      const [from, to] = [cuts[at]!, cuts[at + 1]!];
      const isHit = hits.some(hit => hit.start <= from && to <= hit.end);
      const link = links.find(each => each.start <= from && to <= each.end)?.link;
      fragment.append(pieceOf({ ...span, text: plain.slice(from, to) }, isHit, link, host));
    }
    start += span.text.length;
  }
  return fragment;
}

function pieceOf(span: Span, isHit: boolean, link: Piece['link'], host: Host): Node {
  if (span.style === undefined && !isHit && link === undefined) {
    return document.createTextNode(span.text);
  }
  const element = isHit ? h('mark', { class: 'nbe-log-hit' }, span.text) : h('span', {}, span.text);
  if (span.style !== undefined) {
    dress(element, span.style);
  }
  if (link === undefined) {
    return element;
  }
  const open = (): void => host.openCell?.(link.label, link.line);
  return h(
    'a',
    { class: 'nbe-log-link', role: 'link', title: `Go to line ${link.line} of ${link.label}`, onclick: open },
    element
  );
}

const CLASSES = ['bold', 'dim', 'italic', 'underline', 'strike'] as const;

function dress(element: HTMLElement, style: Style): void {
  CLASSES.filter(name => style[name]).forEach(name => element.classList.add(`nbe-ansi-${name}`));
  const fg = css(style.fg);
  const bg = css(style.bg);
  element.style.color = style.inverse ? (bg ?? 'var(--nbe-bg)') : (fg ?? '');
  element.style.backgroundColor = style.inverse ? (fg ?? 'var(--nbe-fg)') : (bg ?? '');
}

function css(colour: Colour | undefined): string | undefined {
  return typeof colour === 'number' ? `var(--nbe-ansi-${colour})` : colour;
}

function hitsOf(text: string, pattern: RegExp): Piece[] {
  const hits: Piece[] = [];
  pattern.lastIndex = 0;
  for (let match = pattern.exec(text); match !== null && hits.length < MAX_HITS; match = pattern.exec(text)) {
    if (match[0] === '') {
      pattern.lastIndex += 1;
    } else {
      hits.push({ start: match.index, end: match.index + match[0].length });
    }
  }
  return hits;
}

function linksOf(text: string): Piece[] {
  return [...text.matchAll(CELL_LINE)].map(match => ({
    start: match.index,
    end: match.index + match[0].length,
    link: { label: match[1]!, line: Number(match[2]) }
  }));
}

function cutsOf(pieces: Piece[], start: number, end: number): number[] {
  const inside = pieces.flatMap(piece => [piece.start, piece.end]).filter(at => at > start && at < end);
  return [...new Set([start, ...inside, end])].sort((a, b) => a - b);
}
