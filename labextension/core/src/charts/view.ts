/** The metrics tab: a small chart for each metric, the last values of each rank, and what the ranks use. */

import { stepLines, timeLine } from './lines.js';
import { numberText } from './options.js';
import { ChartPanel, type Feed, type PanelSettings } from './panel.js';
import type { Part, RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { MetricsTable } from './table.js';
import { selectionOf } from '../common/selection.js';
import type { Host } from '../source.js';
import { visible } from '../common/text.js';
import { haveUsage, ranksOf } from './usage.js';
import type { View } from '../view.js';

/** Up to so many ranks have a line each. */
const FEW_RANKS = 8;
const CHIPS = 16;
/** Lines in one chart at most; earlier passes of a rank go first. */
const MAX_LINES = 320;
const MAX_PASSES = 8;
const TABLE_MS = 200;

const EXAMPLE = 'nb_elastic.report(step=i, total=n, loss=loss)';

let count = 0;

export function metricsView(data: RunData, host: Host): View {
  return new MetricsView(data, host);
}

class MetricsView implements View {
  readonly element: HTMLElement;
  private readonly selection;
  private readonly settings: PanelSettings = { x: 'step', isLog: false, isEach: true, rank: undefined };
  /** Whether the reader chose lines or spread; else the number of ranks does. */
  private isChosen = false;
  private readonly syncKey = `nbe-${(count += 1)}`;
  private readonly charts: ChartPanel;
  private readonly usage: ChartPanel;
  private readonly table: MetricsTable;
  private readonly empty = emptyState();
  private readonly told = h('div', { class: 'nbe-metrics' });
  private readonly used = h('section', { class: 'nbe-usage', hidden: true, 'aria-label': 'Usage' });
  private readonly chips = h('span', { class: 'nbe-chips', role: 'group', 'aria-label': 'Rank that stands out' });
  private readonly note = h('span', { class: 'nbe-muted' });
  private readonly unselect: () => void;
  private ranks = '';
  private tableDue = 0;
  private tableTimer = 0;

  constructor(
    private readonly data: RunData,
    host: Host
  ) {
    this.selection = selectionOf(host);
    this.settings.rank = this.selection.rank;
    this.charts = new ChartPanel('Metrics', () => this.settings);
    this.usage = new ChartPanel('Usage', () => ({ ...this.settings, x: 'time', isLog: false }));
    this.table = new MetricsTable(data.metrics, rank => this.selection.toggle(rank));
    this.told.append(this.charts.element, this.table.element);
    this.used.append(h('h3', {}, 'Usage'), this.usage.element);
    this.element = h('div', { class: 'nbe-metrics-view' }, this.toolbar(), this.empty, this.told, this.used);
    this.unselect = this.selection.onChange(() => this.choose());
    this.update(new Set<Part>(['state', 'metrics', 'usage']));
  }

  update(changed: ReadonlySet<Part>): void {
    const { metrics } = this.data;
    if (changed.has('metrics') || changed.has('state')) {
      this.seeRanks();
    }
    if (changed.has('metrics')) {
      for (const name of metrics.names) {
        this.charts.have(name, visible(name, 80), { format: numberText, syncKey: this.syncKey }, this.feed(name));
      }
      this.charts.touch();
      this.fillTable();
    }
    if (changed.has('usage')) {
      this.used.hidden = !haveUsage(this.usage, this.data, () => this.zero_ns(), this.syncKey);
      this.usage.touch();
    }
    this.empty.hidden = metrics.ranks.length > 0;
    this.told.hidden = !this.empty.hidden;
  }

  dispose(): void {
    clearTimeout(this.tableTimer);
    this.unselect();
    this.charts.dispose();
    this.usage.dispose();
  }

  private feed(name: string): Feed {
    return ({ x, isLog }) => {
      const { metrics } = this.data;
      const passes = Math.max(1, Math.min(MAX_PASSES, Math.floor(MAX_LINES / Math.max(1, metrics.ranks.length))));
      return metrics.ranks.flatMap(rank => {
        const series = metrics.series(name, rank);
        if (!series) {
          return [];
        }
        return x === 'time' ? [timeLine(rank, series, this.zero_ns(), isLog)] : stepLines(rank, series, passes, isLog);
      });
    };
  }

  /** When the time axis begins. */
  private zero_ns(): number {
    return this.data.snapshot.started_ns || this.data.snapshot.created_ns;
  }

  private fillTable(): void {
    const now = performance.now();
    clearTimeout(this.tableTimer);
    if (now < this.tableDue) {
      this.tableTimer = window.setTimeout(() => this.fillTable(), this.tableDue - now + 1);
      return;
    }
    this.table.update(this.settings.rank);
    this.tableDue = now + Math.max(TABLE_MS, 20 * (performance.now() - now));
  }

  private seeRanks(): void {
    const ranks = ranksOf(this.data);
    if (ranks.join() === this.ranks) {
      return;
    }
    this.ranks = ranks.join();
    if (!this.isChosen) {
      this.settings.isEach = ranks.length <= FEW_RANKS;
    }
    this.element.querySelector<HTMLInputElement>('[name=each]')!.checked = this.settings.isEach;
    const isFew = ranks.length > 1 && ranks.length <= CHIPS;
    this.chips.replaceChildren(...(isFew ? ranks.map(rank => this.chip(rank)) : []));
    this.choose();
  }

  private chip(rank: number): HTMLElement {
    const dot = h('span', { class: 'nbe-dot', 'aria-hidden': 'true' });
    dot.style.background = `var(--nbe-rank-${rank % 8})`;
    const onclick = (): void => this.selection.toggle(rank);
    const attributes = { type: 'button', class: 'nbe-chip', 'data-rank': rank, 'aria-pressed': 'false', onclick };
    return h('button', { ...attributes, title: `Let rank ${rank} stand out` }, dot, rank);
  }

  /** Another rank stands out. */
  private choose(): void {
    const { rank } = this.selection;
    this.settings.rank = rank;
    for (const chip of this.chips.querySelectorAll<HTMLElement>('.nbe-chip')) {
      chip.setAttribute('aria-pressed', String(Number(chip.dataset.rank) === rank));
    }
    setText(this.note, rank !== undefined && !this.chips.childElementCount ? `rank ${rank}` : '');
    for (const panel of [this.charts, this.usage]) {
      if (this.settings.isEach) {
        panel.recolour();
      } else {
        panel.touch(true);
      }
    }
    this.table.update(rank);
  }

  private toolbar(): HTMLElement {
    const redraw = (): void => [this.charts, this.usage].forEach(panel => panel.touch(true));
    const toggle = (name: string, text: string, title: string, change: (is: boolean) => void): HTMLElement => {
      const onchange = (event: Event): void => {
        change((event.target as HTMLInputElement).checked);
        redraw();
      };
      return h('label', { class: 'nbe-toggle', title }, h('input', { type: 'checkbox', name, onchange }), text);
    };
    return h(
      'div',
      { class: 'nbe-metrics-bar', role: 'toolbar', 'aria-label': 'How metrics are drawn' },
      toggle('time', 'over time', 'Draw over time instead of steps', is => (this.settings.x = is ? 'time' : 'step')),
      toggle('log', 'log scale', 'A logarithmic scale of values', is => (this.settings.isLog = is)),
      toggle('each', 'a line each', 'A line for each rank, or their mean and spread', is => {
        this.settings.isEach = is;
        this.isChosen = true;
      }),
      this.chips,
      this.note
    );
  }
}

function emptyState(): HTMLElement {
  return h(
    'div',
    { class: 'nbe-metrics-empty' },
    h('p', {}, 'No metrics yet. Call this in your loop, and progress and curves of every rank appear here:'),
    h('pre', {}, h('code', {}, EXAMPLE))
  );
}
