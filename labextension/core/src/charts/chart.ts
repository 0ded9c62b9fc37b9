/** One small chart: a title, a plot that follows its width and the theme, and the values at the cursor. */

import uPlot from 'uplot';
import type { Aligned } from './lines.js';
import { clockText, optionsOf, type ChartSettings, type ChartStyle, type Curve, type Look } from './options.js';
import { Readout } from './readout.js';
import type { ChartTheme } from './theme.js';
import { h, setText } from '../dom.js';

const HEIGHT = 150;

/** What a chart draws: `data[i + 1]` are the values of `curves[i]`. */
export interface Drawing {
  data: Aligned;
  curves: Curve[];
}

export class Chart {
  readonly element: HTMLElement;
  /** uPlot's own; undefined until there is something to draw and room for it. */
  plot: uPlot | undefined;
  /** In the reader's view, as far as the browser told. */
  isVisible = true;
  private readonly frame = h('div', { class: 'nbe-chart-plot' });
  private readonly where = h('span', { class: 'nbe-chart-where' });
  private readonly readout: Readout;
  private readonly resizing: ResizeObserver;
  private drawing: Drawing | undefined;
  private kinds = '';
  private width = 0;
  private focused: number | null = null;

  constructor(
    title: string,
    private readonly style: ChartStyle,
    private settings: ChartSettings,
    private readonly theme: () => ChartTheme
  ) {
    this.readout = new Readout(style.format);
    this.frame.style.height = `${HEIGHT}px`;
    const name = h('span', { class: 'nbe-chart-title', title }, title);
    const head = h('div', { class: 'nbe-chart-head' }, name, this.where);
    const onkeydown = (event: KeyboardEvent): void => this.key(event);
    const attributes = { class: 'nbe-chart', tabindex: '0', 'aria-label': title, onkeydown };
    this.element = h('figure', attributes, head, this.frame, this.readout.element);
    charts.set(this.element, this);
    this.resizing = new ResizeObserver(entries => this.resize(entries.at(-1)!.contentRect.width));
    this.resizing.observe(this.frame);
  }

  draw(drawing: Drawing, settings: ChartSettings): void {
    const kinds = `${settings.x} ${settings.isLog} ${drawing.curves.map(c => `${c.kind}${c.rank}.${c.age}`).join()}`;
    this.settings = settings;
    this.drawing = drawing;
    if (kinds !== this.kinds) {
      this.kinds = kinds;
      this.make();
    } else if (this.plot) {
      const isZoomed = this.isZoomed();
      this.plot.setData(drawing.data, !isZoomed);
      if (isZoomed) {
        this.plot.redraw();
      }
    }
    this.tell();
  }

  /** Draw again in other colours. */
  recolour(settings: ChartSettings): void {
    this.settings = settings;
    this.plot?.redraw(false, true);
  }

  dispose(): void {
    this.resizing.disconnect();
    this.plot?.destroy();
    this.plot = undefined;
  }

  private make(): void {
    this.plot?.destroy();
    this.plot = undefined;
    if (!this.drawing?.curves.length || this.width < 40) {
      return;
    }
    const look = (): ReturnType<Look> => ({ theme: this.theme(), settings: this.settings });
    const hooks: uPlot.Hooks.Arrays = {
      setCursor: [() => this.tell()],
      setSeries: [(_plot, row) => this.focus(row)]
    };
    const options = optionsOf({ width: this.width, height: HEIGHT }, this.drawing.curves, this.style, look, hooks);
    this.plot = new uPlot(options, this.drawing.data, this.frame);
  }

  private resize(width: number): void {
    this.width = Math.floor(width);
    if (this.plot && this.width >= 40) {
      this.plot.setSize({ width: this.width, height: HEIGHT });
    } else {
      this.make();
    }
  }

  /** True while the reader looks at a stretch of the x axis (dragged; a double click ends it). */
  private isZoomed(): boolean {
    const xs = this.plot?.data[0] ?? [];
    const { min, max } = this.plot?.scales.x ?? {};
    return xs.length > 1 && min != null && max != null && (min > xs[0]! || max < xs[xs.length - 1]!);
  }

  private focus(row: number | null): void {
    this.focused = row === null ? null : row - 1;
    this.tell();
  }

  private tell(): void {
    const { data, curves } = this.drawing ?? { data: [[]] as Aligned, curves: [] };
    const index = this.plot?.cursor.idx;
    this.readout.tell(data, curves, index, this.focused);
    const x = index == null ? data[0].at(-1) : data[0][index];
    const isTime = this.settings.x === 'time';
    setText(this.where, x === undefined ? '' : isTime ? clockText(x) : `step ${x.toLocaleString('en-US')}`);
    this.element.classList.toggle('nbe-hovered', index != null);
  }

  /** Arrow keys move the cursor from point to point. */
  private key(event: KeyboardEvent): void {
    const { plot } = this;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!plot || by === undefined) {
      return;
    }
    event.preventDefault();
    const xs = plot.data[0];
    const from = plot.cursor.idx ?? (by < 0 ? xs.length : -1);
    const x = xs[Math.min(xs.length - 1, Math.max(0, from + by))];
    if (x !== undefined) {
      plot.setCursor({ left: plot.valToPos(x, 'x'), top: plot.over.clientHeight / 2 });
    }
  }
}

const charts = new WeakMap<Element, Chart>();

/** The chart that an element is. */
export function chartOf(element: Element): Chart | undefined {
  return charts.get(element);
}
