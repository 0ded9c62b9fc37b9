/** Ranks in groups, one a node: few as cards, many as small cells that tell state, progress and what stands out. */

import { h, setText } from '../dom.js';
import type { RankFacts } from './facts.js';
import { rankGroup, type Body, type Group } from './group.js';
import { nodeGroups, olderText, type Moment, type NodeGroup } from './node.js';

/** With more ranks than this, nodes begin folded. */
const OPEN_RANKS = 128;
const SMALL_NODE = 8;

export interface Grid {
  readonly element: HTMLElement;
  update(facts: readonly RankFacts[], selected: number | undefined, moment: Moment): void;
}

/** Make the groups; `makeBody` makes what stands below the heading of a node with so many ranks. */
export function rankGrid(kind: string, makeBody: (size: number) => Body): Grid {
  const groups = new Map<number, { group: Group; made: { size: number; hasNode: boolean; isAlone: boolean } }>();
  const list = h('div', { class: kind, onkeydown: (event: KeyboardEvent) => moveFocus(list, event) });
  const older = h('div', { class: 'nbe-older nbe-muted', hidden: true });
  const element = h('div', {}, list, older);
  let drawn = '';

  function rebuild(told: readonly NodeGroup[], count: number): void {
    const key = told.map(group => `${group.index}:${group.members.length}:${!group.node}`).join();
    if (key === drawn) {
      return;
    }
    drawn = key;
    const isAlone = told.length === 1 && !told[0]!.node;
    const isFolded = !isAlone && count > OPEN_RANKS;
    const before = new Map(groups);
    groups.clear();
    for (const { index, members, node } of told) {
      // A group that stays as large stays as its reader left it.
      const kept = before.get(index);
      const made = { size: members.length, hasNode: node !== undefined };
      const isSame = kept?.made.size === made.size && kept.made.hasNode === made.hasNode && kept.made.isAlone === isAlone;
      const fresh = () => {
        const wasOpen = kept && kept.made.size > 0 ? kept.group.element.open : !isFolded;
        return rankGroup(isAlone ? undefined : index, made.size, !wasOpen, makeBody(made.size));
      };
      groups.set(index, isSame ? kept : { group: fresh(), made: { ...made, isAlone } });
    }
    const largest = Math.max(...told.map(group => group.members.length));
    list.classList.toggle('nbe-small', !isAlone && largest <= SMALL_NODE);
    list.classList.toggle('nbe-has-nodes', told.some(group => group.node));
    list.replaceChildren(...told.map(({ index }) => groups.get(index)!.group.element));
  }

  return {
    element,
    update(facts, selected, moment) {
      const found = nodeGroups(facts, moment.snapshot);
      rebuild(found.groups, facts.length);
      found.groups.forEach(group => groups.get(group.index)!.group.update(group, selected, moment));
      older.hidden = !found.older.length;
      setText(older, olderText(found.older));
    }
  };
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
