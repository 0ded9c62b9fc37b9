/** The timeline: one axis, a row for the run, for each round and for each rank, with causes as words. */

import type { RunData } from '../data.js';
import { h, setAttribute, setText } from '../dom.js';
import { isFinal } from '../model.js';
import { durationText } from '../common/text.js';
import { rowsOf, type Bar, type Mark, type Row } from './bars.js';
import type { View } from '../view.js';

const SHORT_CHARS = 12;
const HINT = 'Point at a bar, or tab to it, to read it in full.';

export function timelineView(data: RunData): View {
  const axis = h('div', { class: 'nbe-axis', 'aria-hidden': 'true' });
  const rows = h('div', { class: 'nbe-time-rows', role: 'list' });
  const detail = h('div', { class: 'nbe-time-detail', 'aria-live': 'polite' }, HINT);
  let pointer = '';
  const show = (event: Event) => {
    if (event instanceof PointerEvent && event.type === 'pointerover') {
      const at = `${event.screenX} ${event.screenY}`;
      if (at === pointer) {
        return; // what is drawn moved below a pointer that rests: somebody may be reading by keyboard
      }
      pointer = at;
    }
    const text = (event.target as HTMLElement).closest<HTMLElement>('[data-detail]')?.dataset.detail;
    setText(detail, text ?? HINT);
    detail.classList.toggle('nbe-muted', !text);
  };
  detail.classList.add('nbe-muted');
  const element = h(
    'div',
    { class: 'nbe-timeline', onpointerover: show, onpointerleave: show, onfocusin: show },
    axis,
    rows,
    detail
  );

  function draw(): void {
    const { snapshot } = data;
    const start_ns = snapshot.created_ns;
    const end_ns = Math.max(snapshot.finished_ns || data.nowNs(), start_ns + 1e9);
    const told = rowsOf(snapshot, end_ns);
    drawAxis(axis, (end_ns - start_ns) / 1e9);
    const place = (time_ns: number) =>
      (100 * Math.min(Math.max(0, time_ns - start_ns), end_ns - start_ns)) / (end_ns - start_ns);
    while (rows.children.length > told.length) {
      rows.lastElementChild!.remove();
    }
    told.forEach((row, i) => {
      const own = (rows.children[i] as HTMLElement | undefined) ?? rows.appendChild(makeRow());
      drawRow(own, row, place);
    });
  }
  return {
    element,
    update(changed) {
      if (changed.has('state') || (!changed.size && !isFinal(data.snapshot.state))) {
        draw();
      }
    },
    dispose() {}
  };
}

function makeRow(): HTMLElement {
  return h(
    'div',
    { class: 'nbe-time-row', role: 'listitem' },
    h('div', { class: 'nbe-time-title nbe-clip' }),
    h('div', { class: 'nbe-time-track' })
  );
}

/** Bars are moved, not made anew: what is focused stays focused. */
function drawRow(element: HTMLElement, row: Row, place: (time_ns: number) => number): void {
  const [title, track] = [element.children[0]!, element.children[1]!];
  setText(title, row.title);
  const count = row.bars.length + row.marks.length;
  while (track.children.length > count) {
    track.lastElementChild!.remove();
  }
  while (track.children.length < count) {
    track.append(h('div', { tabindex: 0, role: 'img' }));
  }
  row.bars.forEach((bar, i) => drawBar(track.children[i] as HTMLElement, bar, place));
  row.marks.forEach((mark, i) => drawMark(track.children[row.bars.length + i] as HTMLElement, mark, place));
}

function drawBar(element: HTMLElement, bar: Bar, place: (time_ns: number) => number): void {
  // Cut off, a short word says less than none; a long one still says something.
  const isShort = bar.label.length <= SHORT_CHARS;
  element.className = `nbe-time-bar${bar.isOpen ? ' nbe-open' : ''}${isShort ? ' nbe-short' : ''}`;
  element.dataset.kind = bar.kind;
  element.style.left = `${place(bar.start_ns).toFixed(3)}%`;
  element.style.width = `${(place(bar.end_ns) - place(bar.start_ns)).toFixed(3)}%`;
  setText(element, bar.label);
  describe(element, bar.detail);
}

function drawMark(element: HTMLElement, mark: Mark, place: (time_ns: number) => number): void {
  element.className = `nbe-time-mark${mark.kind ? ` nbe-${mark.kind}` : ''}`;
  element.style.left = `${place(mark.time_ns).toFixed(3)}%`;
  element.style.width = '';
  setText(element, mark.kind ? '+' : '✕');
  describe(element, mark.detail);
}

function describe(element: HTMLElement, detail: string): void {
  if (element.dataset.detail !== detail) {
    element.dataset.detail = detail;
    setAttribute(element, 'aria-label', detail);
    setAttribute(element, 'title', detail);
  }
}

/** About five ticks at round times. */
function drawAxis(axis: HTMLElement, length_s: number): void {
  const step_s = tickStep(length_s / 5);
  const count = Math.floor(length_s / step_s) + 1;
  while (axis.children.length > count) {
    axis.lastElementChild!.remove();
  }
  while (axis.children.length < count) {
    axis.append(h('span', { class: 'nbe-tick' }));
  }
  for (let i = 0; i < count; i += 1) {
    const tick = axis.children[i] as HTMLElement;
    const part = (i * step_s) / length_s;
    tick.style.left = `${(100 * part).toFixed(3)}%`;
    tick.classList.toggle('nbe-late', part > 0.85);
    setText(tick, i === 0 ? '0' : step_s < 1 ? `${(i * step_s).toFixed(1)} s` : tickText(i * step_s));
  }
}

function tickText(seconds: number): string {
  return seconds < 60 ? `${seconds} s` : durationText(seconds).replace(/ 00 (s|min)$/, '');
}

function tickStep(least_s: number): number {
  const steps = [
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400
  ];
  return steps.find(step => step >= least_s) ?? Math.ceil(least_s / 86400) * 86400;
}
