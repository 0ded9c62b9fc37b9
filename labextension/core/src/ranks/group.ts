/** The ranks of one node as cells that fold; folded, a strip of colours and a line of words stand for them. */

import { h, setAttribute, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import { isHere } from '../common/nodes.js';
import { isOdd, type RankFacts } from './facts.js';
import { nodeHead, type Moment, type NodeGroup } from './node.js';
import { rankText } from './words.js';

export interface Group {
  readonly element: HTMLDetailsElement;
  update(group: NodeGroup, selected: number | undefined, moment: Moment): void;
}

/** What a folding group holds below its heading; drawn only while it is open. */
export interface Body {
  readonly element: HTMLElement;
  draw(members: readonly RankFacts[], selected: number | undefined): void;
}

interface Cell {
  readonly element: HTMLButtonElement;
  readonly sign: SVGSVGElement;
  readonly name: HTMLElement;
}

/**
 * Make the group of a node, or of all ranks where `index` is undefined; `isFolded` is how it begins. It unfolds by itself,
 * once, when one of its ranks needs a look, unless its reader has folded it.
 */
export function rankGroup(index: number | undefined, size: number, isFolded: boolean, body: Body): Group {
  const head = nodeHead(index, size);
  let mayUnfold = isFolded;
  const summary = h('summary', { onclick: () => (mayUnfold = false) }, ...head.parts);
  const element = h('details', { class: 'nbe-group', open: !isFolded }, summary, body.element);
  element.classList.toggle('nbe-bare', !size);
  let latest: readonly RankFacts[] = [];
  let picked: number | undefined;
  element.addEventListener('toggle', () => element.open && body.draw(latest, picked));

  return {
    element,
    update(group, selected, moment) {
      [latest, picked] = [group.members, selected];
      const odd = group.members.some(isOdd);
      element.classList.toggle('nbe-odd', odd);
      element.classList.toggle('nbe-gone', group.node !== undefined && !isHere(group.node));
      if (odd && mayUnfold) {
        mayUnfold = false;
        element.open = true;
      }
      head.update(group, moment);
      if (element.open) {
        body.draw(group.members, selected);
      }
    }
  };
}

/** Cells for so many ranks. */
export function cellsBody(size: number, onPick: (rank: number) => void): Body {
  const cells = Array.from({ length: size }, () => makeCell(onPick));
  return {
    element: h('div', { class: 'nbe-cells' }, ...cells.map(cell => cell.element)),
    draw(members, selected) {
      // One stop of the tab key a group; arrow keys do the rest.
      const isPicked = (fact: RankFacts) => fact.worker.rank === selected;
      const stop = Math.max(0, members.findIndex(isPicked));
      members.forEach((fact, i) => drawCell(cells[i]!, fact, isPicked(fact), i === stop));
    }
  };
}

function makeCell(onPick: (rank: number) => void): Cell {
  const sign = icon('starting');
  const name = h('span', {});
  const pick = () => Number(element.dataset.rank) >= 0 && onPick(Number(element.dataset.rank));
  const element = h('button', { type: 'button', class: 'nbe-cell', onclick: pick });
  element.append(sign, name);
  return { element, sign, name };
}

function drawCell(cell: Cell, fact: RankFacts, isSelected: boolean, isTabStop: boolean): void {
  const { element, sign, name } = cell;
  const { rank, state } = fact.worker;
  const text = rankText(fact);
  element.dataset.state = state;
  element.dataset.rank = String(rank);
  element.tabIndex = isTabStop ? 0 : -1;
  element.classList.toggle('nbe-slow', Boolean(fact.slow));
  element.classList.toggle('nbe-silent', Boolean(fact.silent));
  element.classList.toggle('nbe-selected', isSelected);
  element.style.setProperty('--nbe-done', String(fact.progress?.fraction ?? 0));
  setIcon(sign, state === 'running' && fact.slow ? 'slow' : state === 'running' && fact.silent ? 'silent' : state);
  setText(name, rank < 0 ? '?' : String(rank));
  setAttribute(element, 'aria-label', text);
  setAttribute(element, 'aria-pressed', String(isSelected));
  setAttribute(element, 'title', text);
}
