/** The ranks: a line that sums them up, and each as a card, a cell or a row of a table. */

import type { Part, RunData } from '../data.js';
import { h, setAttribute, setText } from '../dom.js';
import { factsOf, isOdd, type RankFacts } from './facts.js';
import { rankGrid } from './grid.js';
import { cellsBody, type Body } from './group.js';
import { rankTable } from './table.js';
import { rankTile, type Tile } from './tile.js';
import { doneFraction, summaryPieces, type Piece } from './words.js';
import { selectionOf, type Selection } from '../common/selection.js';
import type { Host } from '../source.js';
import type { View } from '../view.js';

/** More ranks than this are drawn as cells. */
export const MAX_TILES = 16;
const DRAW_MS = 200;
const GRID_DRAW_MS = 500;
const DRAWN: readonly Part[] = ['state', 'logs', 'metrics', 'usage'];

export function ranksView(data: RunData, host: Host & { selection?: Selection }): View {
  const selection = selectionOf(host);
  const pick = (rank: number) => selection.toggle(rank);
  const tiles = tileList(data, pick);
  const nodes = rankGrid('nbe-nodes', () => tilesBody(data, pick));
  const grid = rankGrid('nbe-grid', size => cellsBody(size, pick));
  const picked = pickedTile(data, pick);
  const table = rankTable(pick, () => draw());
  const summary = summaryLine(selection);
  let isTable = false;
  const toggle = h('button', { type: 'button', class: 'nbe-button nbe-quiet', onclick: () => draw(!isTable) }, 'Table');
  const element = h(
    'section',
    { class: 'nbe-ranks', 'aria-label': 'Ranks' },
    h('div', { class: 'nbe-ranks-head' }, summary.element, toggle),
    summary.bar,
    ...[tiles.element, nodes.element, grid.element, picked.element, table.element]
  );

  function draw(asTable = isTable): void {
    isTable = asTable;
    setAttribute(toggle, 'aria-pressed', String(isTable));
    const facts = factsOf(data);
    const isGrid = facts.length > MAX_TILES;
    const hasNodes = data.snapshot.nodes.length > 0;
    const moment = { snapshot: data.snapshot, now_ns: data.nowNs() };
    summary.update(facts, data);
    toggle.hidden = !facts.length;
    tiles.element.hidden = isTable || isGrid || hasNodes || !facts.length;
    nodes.element.hidden = isTable || isGrid || !hasNodes;
    grid.element.hidden = isTable || !isGrid;
    picked.element.hidden = isTable || !isGrid;
    table.element.hidden = !isTable;
    if (isTable) {
      table.update(facts, selection.rank);
    } else if (isGrid) {
      grid.update(facts, selection.rank, moment);
      picked.update(facts, selection.rank);
    } else if (hasNodes) {
      nodes.update(facts, selection.rank, moment);
    } else {
      tiles.update(facts, selection.rank);
    }
  }

  const calm = calmly(
    () => draw(),
    () => (grid.element.hidden ? DRAW_MS : GRID_DRAW_MS)
  );
  const unlisten = selection.onChange(() => draw());
  return {
    element,
    update(changed) {
      if (changed.has('state')) {
        calm.now();
      } else if (!changed.size || DRAWN.some(part => changed.has(part))) {
        calm.soon();
      }
    },
    dispose() {
      unlisten();
      calm.dispose();
    }
  };
}

/** Calls at most once in so many milliseconds; the last wish is never dropped. */
function calmly(draw: () => void, everyMs: () => number): { now(): void; soon(): void; dispose(): void } {
  let timer: number | undefined;
  let last_ms = -Infinity;
  const now = () => {
    window.clearTimeout(timer);
    timer = undefined;
    last_ms = performance.now();
    draw();
  };
  return {
    now,
    soon() {
      const wait_ms = last_ms + everyMs() - performance.now();
      if (wait_ms <= 0) {
        now();
      } else {
        timer ??= window.setTimeout(now, wait_ms);
      }
    },
    dispose: () => window.clearTimeout(timer)
  };
}

function summaryLine(selection: Selection): {
  element: HTMLElement;
  bar: HTMLElement;
  update(facts: RankFacts[], data: RunData): void;
} {
  const element = h('div', { class: 'nbe-summary' });
  const fill = h('div', { class: 'nbe-bar-fill' });
  const bar = h(
    'div',
    {
      class: 'nbe-bar nbe-overall',
      role: 'progressbar',
      'aria-label': 'Progress of all ranks',
      'aria-valuemin': 0,
      'aria-valuemax': 100
    },
    fill
  );
  return {
    element,
    bar,
    update(facts, data) {
      const pieces = summaryPieces(facts, data.snapshot, data.link !== 'saved');
      while (element.children.length > pieces.length) {
        element.lastElementChild!.remove();
      }
      pieces.forEach((piece, i) => drawPiece(element, i, piece, selection));
      const done = doneFraction(facts);
      fill.style.transform = `scaleX(${done ?? 0})`;
      bar.dataset.state = data.snapshot.state;
      bar.classList.toggle('nbe-none', done === undefined);
      setAttribute(bar, 'aria-valuenow', String(Math.round((done ?? 0) * 100)));
    }
  };
}

/** Words are changed in place: a piece that a reader is about to click stays the same element. */
function drawPiece(parent: HTMLElement, at: number, piece: Piece, selection: Selection): void {
  const tag = piece.rank === undefined ? 'SPAN' : 'BUTTON';
  let element = parent.children[at] as HTMLElement | undefined;
  if (element?.tagName !== tag) {
    const made =
      tag === 'SPAN'
        ? h('span', {})
        : h('button', {
            type: 'button',
            title: 'Select this rank',
            onclick: () => selection.toggle(Number(made.dataset.rank))
          });
    if (element) {
      element.replaceWith(made);
    } else {
      parent.append(made);
    }
    element = made;
  }
  element.className = `nbe-piece ${piece.kind && `nbe-${piece.kind}`}`;
  element.dataset.rank = String(piece.rank ?? '');
  setText(element, piece.text);
}

function tileList(
  data: RunData,
  pick: (rank: number) => void
): { element: HTMLElement; update(facts: readonly RankFacts[], selected?: number): void } {
  const tiles = new Map<string, Tile>();
  const element = h('ul', { class: 'nbe-tiles' });
  return {
    element,
    update(facts, selected) {
      const keys = new Set(facts.map(fact => fact.key));
      for (const [key, tile] of tiles) {
        if (!keys.has(key)) {
          tile.element.remove();
          tiles.delete(key);
        }
      }
      element.dataset.count = String(facts.length);
      element.classList.toggle('nbe-fours', facts.length % 4 === 0);
      element.classList.toggle('nbe-twos', facts.length === 2);
      facts.forEach((fact, i) => {
        const tile = tiles.get(fact.key) ?? rankTile(data, pick);
        tiles.set(fact.key, tile);
        if (element.children[i] !== tile.element) {
          element.insertBefore(tile.element, element.children[i] ?? null);
        }
        tile.update(fact, fact.worker.rank === selected);
      });
    }
  };
}

/** The cards of one node. */
function tilesBody(data: RunData, pick: (rank: number) => void): Body {
  const { element, update } = tileList(data, pick);
  return { element, draw: update };
}

/** Below a grid: one rank's card, always: the selected one, else the one that most needs a look. */
function pickedTile(
  data: RunData,
  pick: (rank: number) => void
): { element: HTMLElement; update(facts: RankFacts[], selected?: number): void } {
  const tile = rankTile(data, pick);
  const element = h('ul', { class: 'nbe-tiles nbe-picked', 'data-count': 1 }, tile.element);
  return {
    element,
    update(facts, selected) {
      const root = facts.find(fact => fact.worker.rank === data.snapshot.root_rank);
      const fact = facts.find(f => f.worker.rank === selected) ?? root ?? facts.find(isOdd) ?? facts[0];
      if (fact) {
        tile.update(fact, fact.worker.rank === selected);
      }
    }
  };
}
