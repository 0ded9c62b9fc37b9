/** The last values of each rank as a table, and who is slow. */

import { numberText } from './options.js';
import type { MetricData, Progress } from '../data.js';
import { h, setText } from '../dom.js';
import { stepTimeText, visible } from '../common/text.js';

/** More columns than this make no table that a reader can look at. */
const MAX_COLUMNS = 12;
/** A rank is told to be slow from so much above the median step time. */
const SLOW = 1.5;

export class MetricsTable {
  readonly element: HTMLElement;
  private readonly head = h('tr', {});
  private readonly body = h('tbody', {});
  private names = '';
  private readonly rows = new Map<number, HTMLTableRowElement>();

  constructor(
    private readonly metrics: MetricData,
    private readonly select: (rank: number) => void
  ) {
    const table = h('table', { class: 'nbe-metrics-table' }, h('thead', {}, this.head), this.body);
    const attributes = { class: 'nbe-metrics-scroll', tabindex: '0', role: 'region' };
    this.element = h('div', { ...attributes, 'aria-label': 'Last values of each rank' }, table);
  }

  update(selected: number | undefined): void {
    const names = this.metrics.names.slice(0, MAX_COLUMNS);
    const wanted = `${names.join('\n')}\n${this.metrics.ranks.join()}`;
    if (wanted !== this.names) {
      this.names = wanted;
      this.make(names);
    }
    const progress = new Map(this.metrics.ranks.map(rank => [rank, this.metrics.progress(rank)]));
    const slowest = slowestOf(progress);
    for (const [rank, row] of this.rows) {
      this.fill(row, rank, names, progress.get(rank), slowest?.rank === rank ? slowest.text : '');
      row.classList.toggle('nbe-selected', rank === selected);
    }
  }

  private make(names: readonly string[]): void {
    const columns = ['Rank', 'Step', 'Step time', ...names.map(name => visible(name, 40))];
    this.head.replaceChildren(...columns.map(column => h('th', { scope: 'col' }, column)));
    this.rows.clear();
    for (const rank of this.metrics.ranks) {
      const dot = h('span', { class: 'nbe-dot', 'aria-hidden': 'true' });
      dot.style.background = `var(--nbe-rank-${rank % 8})`;
      const onclick = (): void => this.select(rank);
      const button = h('button', { type: 'button', class: 'nbe-rank-button', onclick }, dot, rank);
      const cells = columns.slice(1).map(() => h('td', {}));
      this.rows.set(rank, h('tr', {}, h('th', { scope: 'row' }, button), ...cells));
    }
    this.body.replaceChildren(...this.rows.values());
  }

  private fill(row: Element, rank: number, names: readonly string[], progress?: Progress, slow = ''): void {
    const [, step, time, ...cells] = row.children;
    const total = progress?.total === undefined ? '' : ` / ${progress.total.toLocaleString('en-US')}`;
    setText(step!, progress ? `${progress.step.toLocaleString('en-US')}${total}` : '');
    const pace = progress?.step_s === undefined ? '' : stepTimeText(progress.step_s).replace('/step', '');
    setText(time!, slow ? `${pace} (${slow})` : pace);
    row.classList.toggle('nbe-slow', slow !== '');
    names.forEach((name, i) => {
      const value = this.metrics.series(name, rank)?.values.at(-1);
      setText(cells[i]!, value === undefined ? '' : numberText(value));
    });
  }
}

/** The rank whose steps take clearly longer than the others', and how much. */
function slowestOf(progress: Map<number, Progress | undefined>): { rank: number; text: string } | undefined {
  const paces = [...progress].flatMap(([rank, one]) => (one?.step_s ? [{ rank, step_s: one.step_s }] : []));
  paces.sort((a, b) => a.step_s - b.step_s);
  const [median, last] = [paces[(paces.length - 1) >> 1], paces.at(-1)];
  if (paces.length < 2 || !median || !last || last.step_s < SLOW * median.step_s) {
    return undefined;
  }
  return { rank: last.rank, text: `slowest: ${(last.step_s / median.step_s).toFixed(1)}x the median` };
}
