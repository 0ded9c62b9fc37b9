/** A group of charts: draws those that are seen and due, a few milliseconds a frame, and keeps their looks alike. */

import { Chart, type Drawing } from './chart.js';
import { align, placeOf, spreads, type Aligned, type Line } from './lines.js';
import type { ChartSettings, ChartStyle, Curve } from './options.js';
import { onThemeChange, readTheme, type ChartTheme } from './theme.js';
import { h } from '../dom.js';

/** How charts show several ranks. */
export interface PanelSettings extends ChartSettings {
  /** A line for each rank; else their mean and spread. */
  isEach: boolean;
}

/** Lines to draw, asked for when their turn comes. */
export type Feed = (settings: PanelSettings) => Line[];

const FRAME_MS = 4;
const PAUSE_MS = 200;
/** A chart rests so many times as long as its drawing took. */
const REST = 20;

interface Member {
  chart: Chart;
  feed: Feed;
  isDirty: boolean;
  /** Not to be drawn before (performance.now()). */
  due: number;
}

export class ChartPanel {
  readonly element: HTMLElement;
  private readonly members = new Map<string, Member>();
  private readonly seen: IntersectionObserver;
  private untheme: (() => void) | undefined;
  private theme: ChartTheme | undefined;
  private frame = 0;
  private timer = 0;

  constructor(
    label: string,
    private readonly settings: () => PanelSettings
  ) {
    this.element = h('div', { class: 'nbe-charts', role: 'group', 'aria-label': label });
    this.seen = new IntersectionObserver(entries => this.look(entries), { rootMargin: '100px' });
  }

  get size(): number {
    return this.members.size;
  }

  /** Have a chart of that name; a new one goes to the end. */
  have(name: string, title: string, style: ChartStyle, feed: Feed): void {
    if (this.members.has(name)) {
      return;
    }
    const chart = new Chart(title, style, this.settings(), () => this.colours());
    this.members.set(name, { chart, feed, isDirty: true, due: 0 });
    this.element.append(chart.element);
    this.seen.observe(chart.element);
    this.plan();
  }

  /** Data changed: draw when it is due. At once where the reader changed how charts look. */
  touch(isAtOnce = false): void {
    for (const member of this.members.values()) {
      member.isDirty = true;
      member.due = isAtOnce ? 0 : member.due;
    }
    this.plan();
  }

  /** Colours alone changed: the theme or the rank that stands out. */
  recolour(): void {
    this.members.forEach(({ chart }) => chart.recolour(this.settings()));
  }

  dispose(): void {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.seen.disconnect();
    this.untheme?.();
    this.members.forEach(({ chart }) => chart.dispose());
    this.members.clear();
  }

  /** Asked for while a chart is drawn: the element is in the page then, and has colours. */
  private colours(): ChartTheme {
    this.theme ??= readTheme(this.element);
    this.untheme ??= onThemeChange(this.element, () => {
      this.theme = undefined;
      this.recolour();
    });
    return this.theme;
  }

  private look(entries: IntersectionObserverEntry[]): void {
    for (const entry of entries) {
      for (const { chart } of this.members.values()) {
        if (chart.element === entry.target) {
          chart.isVisible = entry.isIntersecting;
        }
      }
    }
    this.plan();
  }

  /** See to it that the next frame draws, or a later one when the first chart is due. */
  private plan(): void {
    const waiting = [...this.members.values()].filter(member => member.isDirty && member.chart.isVisible);
    if (!waiting.length || this.frame) {
      return;
    }
    clearTimeout(this.timer);
    const wait_ms = Math.min(...waiting.map(member => member.due)) - performance.now();
    if (wait_ms > 1) {
      this.timer = window.setTimeout(() => this.plan(), wait_ms);
    } else {
      this.frame = requestAnimationFrame(() => this.draw());
    }
  }

  private draw(): void {
    this.frame = 0;
    const began = performance.now();
    const due = [...this.members.values()].filter(m => m.isDirty && m.chart.isVisible && m.due <= began + 1);
    due.sort((a, b) => a.due - b.due);
    for (const member of due) {
      const from = performance.now();
      const settings = this.settings();
      member.isDirty = false;
      member.chart.draw(drawingOf(member.feed(settings), settings), settings);
      const to = performance.now();
      member.due = to + Math.max(PAUSE_MS, REST * (to - from));
      if (to - began > FRAME_MS) {
        break;
      }
    }
    this.plan();
  }
}

/** Lines as they are, or their mean and spread and the line of the rank that stands out. */
export function drawingOf(lines: Line[], settings: Pick<PanelSettings, 'isEach' | 'rank'>): Drawing {
  const own = settings.isEach ? lines : lines.filter(line => line.rank === settings.rank);
  const curves: Curve[] = [];
  const rows: Line[] = [];
  for (const spread of settings.isEach ? [] : spreads(lines)) {
    const { age, xs } = spread;
    const whose = (ranks: number[]) => (x: number) => ranks[Math.max(0, placeOf(xs, x))];
    curves.push({ kind: 'mean', rank: -1, age });
    curves.push({ kind: 'low', rank: -1, age, whose: whose(spread.lowRank) });
    curves.push({ kind: 'high', rank: -1, age, whose: whose(spread.highRank) });
    rows.push(...[spread.mean, spread.low, spread.high].map(ys => ({ rank: -1, xs, ys, age })));
  }
  curves.push(...own.map(({ rank, age }): Curve => ({ kind: 'line', rank, age })));
  const data: Aligned = align([...rows, ...own]);
  return { data, curves };
}
