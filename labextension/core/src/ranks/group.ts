/** The ranks of one node as cells that fold; folded, a strip of colours and a line of words stand for them. */

import { h, setAttribute, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import { isOdd, type RankFacts } from './facts.js';
import { groupText, rankText } from './words.js';
import { plural } from '../common/text.js';

export interface Group {
  readonly element: HTMLDetailsElement;
  update(members: readonly RankFacts[], selected: number | undefined): void;
}

interface Cell {
  readonly element: HTMLButtonElement;
  readonly sign: SVGSVGElement;
  readonly name: HTMLElement;
}

/**
 * Make the group of a node, or of all ranks where `node` is undefined; `isFolded` is how it begins. It unfolds by itself,
 * once, when one of its ranks needs a look, unless its reader has folded it.
 */
export function rankGroup(
  node: number | undefined,
  size: number,
  isFolded: boolean,
  onPick: (rank: number) => void
): Group {
  const cells = Array.from({ length: size }, () => makeCell(onPick));
  const blocks = Array.from({ length: size }, () => h('i', {}));
  const strip = h('span', { class: 'nbe-strip', 'aria-hidden': 'true' }, ...blocks);
  const words = h('span', { class: 'nbe-group-words' });
  const title = h('span', { class: 'nbe-group-title' }, node === undefined ? plural(size, 'rank') : `node ${node}`);
  let mayUnfold = isFolded;
  const summary = h('summary', { onclick: () => (mayUnfold = false) }, title, strip, words);
  const body = h('div', { class: 'nbe-cells' }, ...cells.map(cell => cell.element));
  const element = h('details', { class: 'nbe-group', open: !isFolded }, summary, body);
  let latest: readonly RankFacts[] = [];
  let picked: number | undefined;

  function drawCells(): void {
    // One stop of the tab key a group; arrow keys do the rest.
    const isPicked = (fact: RankFacts) => fact.worker.rank === picked;
    const stop = Math.max(0, latest.findIndex(isPicked));
    latest.forEach((fact, i) => drawCell(cells[i]!, fact, isPicked(fact), i === stop));
  }
  element.addEventListener('toggle', () => element.open && drawCells());

  return {
    element,
    update(members, selected) {
      [latest, picked] = [members, selected];
      const odd = members.some(isOdd);
      element.classList.toggle('nbe-odd', odd);
      if (odd && mayUnfold) {
        mayUnfold = false;
        element.open = true;
      }
      setText(words, groupText(members, node === undefined));
      if (element.open) {
        drawCells();
      }
      members.forEach((fact, i) => {
        blocks[i]!.dataset.state = fact.worker.state;
        blocks[i]!.classList.toggle('nbe-odd', isOdd(fact));
      });
    }
  };
}

function makeCell(onPick: (rank: number) => void): Cell {
  const sign = icon('starting');
  const name = h('span', {});
  const element = h('button', {
    type: 'button',
    class: 'nbe-cell',
    onclick: () => onPick(Number(element.dataset.rank))
  });
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
