/** All ranks as a table that sorts by any column. */

import { h, setAttribute, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import type { RankFacts } from './facts.js';
import { outcomeText, progressText } from './words.js';
import { bytesText, percentText, stateText, stepTimeText, visible } from '../common/text.js';

interface Column {
  readonly title: string;
  text(facts: RankFacts): string;
  /** What it sorts by; a column of text sorts by its text. */
  value?(facts: RankFacts): number | undefined;
  readonly isText?: boolean;
}

const COLUMNS: readonly Column[] = [
  { title: 'rank', text: f => (f.worker.rank < 0 ? '?' : String(f.worker.rank)), value: f => f.worker.rank },
  { title: 'node', text: f => [f.worker.node, visible(f.node?.host ?? '', 40)].filter(word => word !== '').join(' '), value: f => f.worker.node },
  { title: 'state', text: f => stateText(f.worker.state), isText: true },
  { title: 'pid', text: f => (f.worker.pid ? String(f.worker.pid) : ''), value: f => f.worker.pid },
  { title: 'device', text: f => visible(f.worker.device, 60), isText: true },
  { title: 'CPU', text: f => (f.usage ? percentText(f.usage.cpu_percent) : ''), value: f => f.usage?.cpu_percent },
  { title: 'memory', text: f => (f.usage ? bytesText(f.usage.memory_bytes) : ''), value: f => f.usage?.memory_bytes },
  { title: 'GPU', text: f => maybe(f.usage?.gpu_percent, percentText), value: f => f.usage?.gpu_percent },
  { title: 'VRAM', text: f => maybe(f.usage?.gpu_memory_bytes, bytesText), value: f => f.usage?.gpu_memory_bytes },
  {
    title: 'progress',
    text: f => (f.progress ? progressText({ ...f.progress, step_s: undefined }) : ''),
    value: f => f.progress?.step
  },
  { title: 'step time', text: f => maybe(f.progress?.step_s, stepTimeText), value: f => f.progress?.step_s },
  { title: 'stands out', text: f => [f.slow, f.silent].filter(Boolean).join(' · '), isText: true },
  { title: 'last line or outcome', text: f => outcomeText(f) || visible(f.last?.text ?? '', 200), isText: true }
];

function maybe(value: number | undefined, text: (value: number) => string): string {
  return value === undefined ? '' : text(value);
}

interface Row {
  readonly element: HTMLTableRowElement;
  readonly cells: readonly HTMLTableCellElement[];
  readonly sign: SVGSVGElement;
  readonly words: HTMLElement;
}

export interface RankTable {
  readonly element: HTMLElement;
  update(facts: readonly RankFacts[], selected: number | undefined): void;
}

/** Make the table; `onPick` is called with the rank of a row that is clicked, `onSort` when another order is wanted. */
export function rankTable(onPick: (rank: number) => void, onSort: () => void): RankTable {
  const rows = new Map<string, Row>();
  let sorted = 0;
  let direction = 1;
  const heads = COLUMNS.map((column, i) => {
    const sort = () => {
      direction = sorted === i ? -direction : i === 0 || column.isText ? 1 : -1;
      sorted = i;
      onSort();
    };
    return h(
      'th',
      { scope: 'col', class: column.isText && 'nbe-text' },
      h('button', { type: 'button', title: `Sort by ${column.title}`, onclick: sort }, column.title)
    );
  });
  const body = h('tbody');
  const table = h('table', { class: 'nbe-table' }, h('thead', {}, h('tr', {}, ...heads)), body);
  const element = h(
    'div',
    { class: 'nbe-table-frame', tabindex: 0, role: 'group', 'aria-label': 'Table of ranks' },
    table
  );

  return {
    element,
    update(facts, selected) {
      heads.forEach((head, i) =>
        setAttribute(head, 'aria-sort', i !== sorted ? 'none' : direction > 0 ? 'ascending' : 'descending')
      );
      const order = [...facts].sort((a, b) => direction * compare(COLUMNS[sorted]!, a, b));
      const elements = order.map(fact => {
        const row = rows.get(fact.key) ?? makeRow(onPick);
        rows.set(fact.key, row);
        drawRow(row, fact, fact.worker.rank === selected);
        return row.element;
      });
      if (elements.length !== body.children.length || elements.some((row, i) => body.children[i] !== row)) {
        body.replaceChildren(...elements);
      }
      COLUMNS.forEach((column, i) => {
        const isEmpty = i > 2 && facts.every(fact => !column.text(fact));
        const isOne = !facts[0]?.node && new Set(facts.map(fact => fact.worker.node)).size < 2;
        const isNode = column.title === 'node' && isOne;
        table.classList.toggle(`nbe-no-${i}`, isEmpty || isNode);
      });
    }
  };
}

function makeRow(onPick: (rank: number) => void): Row {
  const cells = COLUMNS.map(() => h('td'));
  const sign = icon('starting');
  const words = h('span', {});
  cells[2]!.append(sign, words);
  const name = h('button', { type: 'button', class: 'nbe-tile-name' });
  cells[0]!.append(name);
  const element = h('tr', { onclick: () => onPick(Number(element.dataset.rank)) }, ...cells);
  return { element, cells, sign, words };
}

function drawRow(row: Row, fact: RankFacts, isSelected: boolean): void {
  row.element.dataset.state = fact.worker.state;
  row.element.dataset.rank = String(fact.worker.rank);
  row.element.classList.toggle('nbe-selected', isSelected);
  row.element.classList.toggle('nbe-slow', Boolean(fact.slow || fact.silent));
  setIcon(row.sign, fact.worker.state);
  for (const [i, column] of COLUMNS.entries()) {
    const text = column.text(fact);
    const cell = row.cells[i]!;
    setText(i === 2 ? row.words : i === 0 ? cell.firstElementChild! : cell, text);
    cell.classList.toggle('nbe-text', Boolean(column.isText));
    if (i > 10) {
      setAttribute(cell, 'title', text);
    }
  }
  setAttribute(row.cells[0]!.firstElementChild!, 'aria-pressed', String(isSelected));
}

/** Ranks without a value come last in both directions' first half: they are the smallest. */
function compare(column: Column, a: RankFacts, b: RankFacts): number {
  if (column.value) {
    return (column.value(a) ?? -1) - (column.value(b) ?? -1) || a.worker.rank - b.worker.rank;
  }
  return column.text(a).localeCompare(column.text(b)) || a.worker.rank - b.worker.rank;
}
