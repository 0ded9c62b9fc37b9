/** The words under a chart: what it shows at the cursor, or at its end. */

import type { Aligned } from './lines.js';
import { numberText, type Curve } from './options.js';
import { h, setText } from '../dom.js';

/** More lines than this are not told one by one. */
const FEW = 8;

interface Item {
  label: string;
  value: string;
  /** Rank whose colour it has. */
  rank?: number;
  /** Whose value it is, in words. */
  whose?: string;
}

interface Told {
  rank: number;
  value: number;
}

export class Readout {
  readonly element = h('div', { class: 'nbe-readout' });
  private readonly items: { root: HTMLElement; dot: HTMLElement; texts: HTMLElement[] }[] = [];

  constructor(private readonly format: (value: number) => string = numberText) {}

  /** Tell the values at a place of the data (its end without one); `focused` is the row nearest to the pointer. */
  tell(data: Aligned, curves: readonly Curve[], index: number | null | undefined, focused: number | null): void {
    const items = this.itemsOf(data, curves, index ?? undefined, focused);
    items.forEach((item, i) => this.show(item, i));
    this.element.classList.toggle('nbe-wide', items.some(item => item.whose));
    this.items.forEach((item, i) => (item.root.hidden = i >= items.length));
  }

  private itemsOf(data: Aligned, curves: readonly Curve[], index: number | undefined, focused: number | null): Item[] {
    const told = linesAt(data, curves, index);
    const item = ({ rank, value }: Told, label: string, whose = ''): Item => ({
      label,
      rank,
      value: this.format(value),
      whose
    });
    const middle = curves.findLastIndex(curve => curve.kind === 'mean');
    if (middle >= 0) {
      const words = { mean: 'mean', low: 'low', high: 'high' };
      const x = data[0][index ?? data[0].length - 1] ?? 0;
      const ends = (['mean', 'low', 'high'] as const).map((kind, offset) => {
        const rank = curves[middle + offset]?.whose?.(x);
        const value = this.format(valueAt(data[middle + 1 + offset] ?? [], index));
        return { label: words[kind], value, rank, whose: rank === undefined ? '' : `rank ${rank}` };
      });
      return [...ends, ...told.map(one => item(one, `rank ${one.rank}`))];
    }
    if (told.length <= FEW) {
      return told.map(one => item(one, String(one.rank)));
    }
    const finite = told.filter(one => Number.isFinite(one.value));
    if (!finite.length) {
      return [];
    }
    const low = finite.reduce((a, b) => (b.value < a.value ? b : a));
    const high = finite.reduce((a, b) => (b.value > a.value ? b : a));
    const near = told.find(one => focused !== null && curves[focused]?.rank === one.rank);
    const ends = [item(low, 'low', `rank ${low.rank}`), item(high, 'high', `rank ${high.rank}`)];
    return near ? [...ends, item(near, `rank ${near.rank}`)] : ends;
  }

  private show(item: Item, i: number): void {
    let place = this.items[i];
    if (!place) {
      const dot = h('span', { class: 'nbe-dot', 'aria-hidden': 'true' });
      const texts = ['label', 'value', 'whose'].map(part => h('span', { class: `nbe-readout-${part}` }));
      place = { root: h('span', { class: 'nbe-readout-item' }, dot, ...texts), dot, texts };
      this.items.push(place);
      this.element.append(place.root);
    }
    [item.label, item.value, item.whose ?? ''].forEach((text, part) => setText(place.texts[part]!, text));
    const colour = item.rank === undefined ? '' : `var(--nbe-rank-${item.rank % FEW})`;
    if (place.dot.style.background !== colour) {
      place.dot.style.background = colour;
    }
    place.dot.hidden = item.rank === undefined;
  }
}

/** What each rank's latest line that is there tells at a place. */
function linesAt(data: Aligned, curves: readonly Curve[], index: number | undefined): Told[] {
  const found = new Map<number, Told>();
  curves.forEach(({ kind, rank }, row) => {
    const value = kind === 'line' ? valueAt(data[row + 1] ?? [], index) : undefined;
    if (value !== undefined && (!Number.isNaN(value) || !found.has(rank))) {
      found.set(rank, { rank, value });
    }
  });
  return [...found.values()].sort((a, b) => a.rank - b.rank);
}

/** The value at a place, or the last one told before it; NaN for a gap. Without a place the last of all. */
function valueAt(ys: Aligned[1], index: number | undefined): number {
  let i = index ?? ys.length - 1;
  while (i >= 0 && ys[i] === undefined) {
    i -= 1;
  }
  return ys[i] ?? NaN;
}
