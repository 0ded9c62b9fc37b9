/** Many ranks as small cells, a group a node: each cell tells state, progress and what stands out. */

import { h } from '../dom.js';
import type { RankFacts } from './facts.js';
import { rankGroup, type Group } from './group.js';

/** With more ranks than this, nodes begin folded. */
const OPEN_RANKS = 128;
const SMALL_NODE = 8;

export interface Grid {
  readonly element: HTMLElement;
  update(facts: readonly RankFacts[], selected: number | undefined): void;
}

/** Make the grid; `onPick` is called with the rank of a cell that is clicked. */
export function rankGrid(onPick: (rank: number) => void): Grid {
  const groups = new Map<number, Group>();
  const element = h('div', { class: 'nbe-grid', onkeydown: (event: KeyboardEvent) => moveFocus(element, event) });
  let drawn = '';

  function rebuild(byNode: ReadonlyMap<number, readonly RankFacts[]>, count: number): void {
    const key = [...byNode].map(([node, members]) => `${node}:${members.length}`).join();
    if (key === drawn) {
      return;
    }
    drawn = key;
    const isAlone = byNode.size === 1;
    const isFolded = (node: number) =>
      groups.has(node) ? !groups.get(node)!.element.open : !isAlone && count > OPEN_RANKS;
    const made = [...byNode].map(
      ([node, members]) =>
        [node, rankGroup(isAlone ? undefined : node, members.length, isFolded(node), onPick)] as const
    );
    groups.clear();
    made.forEach(([node, group]) => groups.set(node, group));
    const largest = Math.max(...[...byNode.values()].map(members => members.length));
    element.classList.toggle('nbe-small', !isAlone && largest <= SMALL_NODE);
    element.replaceChildren(...made.map(([, group]) => group.element));
  }

  return {
    element,
    update(facts, selected) {
      const byNode = groupByNode(facts);
      rebuild(byNode, facts.length);
      byNode.forEach((members, node) => groups.get(node)!.update(members, selected));
    }
  };
}

function groupByNode(facts: readonly RankFacts[]): Map<number, RankFacts[]> {
  const groups = new Map<number, RankFacts[]>();
  for (const fact of facts) {
    const group = groups.get(fact.worker.node);
    if (group) {
      group.push(fact);
    } else {
      groups.set(fact.worker.node, [fact]);
    }
  }
  return groups;
}

/** Arrow keys go from cell to cell: one tab stop for hundreds of ranks. */
function moveFocus(grid: HTMLElement, event: KeyboardEvent): void {
  const all = [...grid.querySelectorAll<HTMLElement>('.nbe-group[open] .nbe-cell')];
  const at = all.indexOf(document.activeElement as HTMLElement);
  if (at < 0) {
    return;
  }
  const top = all[at]!.offsetTop;
  const columns = Math.max(
    1,
    all.filter(cell => cell.offsetTop === top && cell.parentElement === all[at]!.parentElement).length
  );
  const to = {
    ArrowRight: at + 1,
    ArrowLeft: at - 1,
    ArrowDown: at + columns,
    ArrowUp: at - columns,
    Home: 0,
    End: all.length - 1
  }[event.key];
  if (to === undefined) {
    return;
  }
  event.preventDefault();
  const next = all[Math.min(all.length - 1, Math.max(0, to))]!;
  all[at]!.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
