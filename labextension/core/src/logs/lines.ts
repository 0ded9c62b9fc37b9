/** How one row of the log looks. */

import { h } from '../dom.js';
import type { Host } from '../source.js';
import { strip } from './ansi.js';
import type { LogFile } from './file.js';
import { drawText } from './spans.js';
import type { LineRow, MarkRow } from './store.js';
import { sizeText, decode, showControls } from './text.js';

export interface LineLook {
  number: number;
  hasTimes: boolean;
  pattern: RegExp | undefined;
  /** Ranks of a folded group whose head this is. */
  group: number[] | undefined;
  isUnfolded: boolean;
  isMember: boolean;
  isSelected: boolean;
  isCurrent: boolean;
  /** Where the rank was, in words; "" where there is one node. */
  place: string;
}

export interface LineActions {
  host: Host;
  toggle(): void;
  /** Download the line whose end is missing here. */
  save(row: LineRow): void;
}

/** In one row of the page no more is drawn of a line; all of it is copied and downloaded. */
const MAX_DRAWN_CHARS = 20_000;
/** Of a folded row's ranks in brackets: text begins at one column in all rows. */
export const LABEL_CHARS = 7;

export function drawLine(row: LineRow, look: LineLook, actions: LineActions): HTMLElement {
  const { file } = row;
  const element = h('div', { class: 'nbe-log-line' });
  element.classList.toggle('nbe-is-stderr', file.stream === 'stderr');
  element.classList.toggle('nbe-is-live', row.isLive);
  element.classList.toggle('nbe-is-member', look.isMember);
  element.classList.toggle('nbe-is-selected', look.isSelected);
  element.classList.toggle('nbe-is-current', look.isCurrent);
  const number = h('span', { class: 'nbe-log-number', 'data-number': row.isLive ? '…' : look.number });
  element.append(
    h('span', { class: 'nbe-log-gutter' }, number, look.hasTimes && timeOf(row), rankOf(file, look, actions))
  );
  element.append(textOf(row, look, actions));
  return element;
}

function timeOf(row: LineRow): HTMLElement {
  return h('span', { class: 'nbe-log-time' }, clockText(row.time_ns));
}

/** `14:02:07.310` of the reader's time zone. */
export function clockText(time_ns: number): string {
  const time = new Date(time_ns / 1e6);
  const two = (value: number): string => String(value).padStart(2, '0');
  const ms = String(time.getMilliseconds()).padStart(3, '0');
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${ms}`;
}

function rankOf(file: LogFile, look: LineLook, actions: LineActions): HTMLElement {
  const isError = file.stream === 'stderr';
  const sign = h('span', { class: 'nbe-log-sign', title: isError ? 'stderr' : 'stdout' }, isError ? '!' : '');
  if (look.group !== undefined) {
    const ranks = rankRanges(look.group);
    const label = ranks.length + 2 <= LABEL_CHARS ? `[${ranks}]` : `[${look.group.length}×]`;
    const attributes = {
      class: 'nbe-log-group',
      type: 'button',
      'aria-expanded': String(look.isUnfolded),
      title: `Ranks ${ranks} wrote this line: ${look.isUnfolded ? 'fold' : 'unfold'}`,
      onclick: actions.toggle
    };
    return h('span', { class: 'nbe-log-rank' }, h('button', attributes, label), sign);
  }
  const style = `color: var(--nbe-rank-${file.rank % 8})`;
  const name = `rank ${file.rank}${look.place}, ${file.stream}`;
  return h(
    'span',
    { class: 'nbe-log-rank', 'aria-label': name, title: name },
    h('span', { style }, `${file.rank}`),
    sign
  );
}

function textOf(row: LineRow, look: LineLook, actions: LineActions): HTMLElement {
  const element = h('span', { class: 'nbe-log-text' });
  if (row.bytes === undefined) {
    element.classList.add('nbe-is-waiting');
    element.append(row.error === '' ? 'reading back …' : `cannot be read back: ${row.error}`);
    return element;
  }
  const text = lineText(row);
  element.append(drawText(text.slice(0, MAX_DRAWN_CHARS), look.pattern, actions.host));
  const hidden = row.more + Math.max(0, text.length - MAX_DRAWN_CHARS);
  if (hidden > 0) {
    const save = h('button', { class: 'nbe-log-more', type: 'button', onclick: () => actions.save(row) }, 'Download');
    element.append(h('span', { class: 'nbe-log-cut' }, ` … ${sizeText(hidden)} more `, save));
  }
  return element;
}

/** A line's text, colours and all. */
export function lineText(row: LineRow): string {
  const text = decode(row.bytes ?? new Uint8Array());
  return text.endsWith('\r') ? text.slice(0, -1) : text;
}

/** A line's text as it is copied: no colours, nothing hidden. */
export function plainText(row: LineRow): string {
  return showControls(strip(lineText(row)));
}

export function drawMark(row: MarkRow, load: () => void): HTMLElement {
  const { mark, file } = row;
  if (mark.kind === 'round') {
    return h('div', { class: 'nbe-log-line nbe-log-round', role: 'separator' }, h('span', {}, `round ${mark.round}`));
  }
  const where = file === undefined ? '' : ` of rank ${file.rank}’s ${file.stream}`;
  const state = mark.error !== '' ? `: ${mark.error}` : mark.isReading ? ': reading …' : '';
  const button = h(
    'button',
    { class: 'nbe-log-more', type: 'button', onclick: load, disabled: mark.isReading },
    'Load'
  );
  return h(
    'div',
    { class: 'nbe-log-line nbe-log-gap' },
    h('span', {}, `${sizeText(mark.size)}${where} skipped${state} `, button)
  );
}

/** `0-3,7` */
export function rankRanges(ranks: readonly number[]): string {
  const sorted = [...new Set(ranks)].sort((a, b) => a - b);
  const ranges: [number, number][] = [];
  for (const rank of sorted) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === rank - 1) {
      last[1] = rank;
    } else {
      ranges.push([rank, rank]);
    }
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(',');
}
