/** Ranks that stand at one place: who, what they do and where, and the frames that lead there. */

import { selectionOf, type Selection } from '../common/selection.js';
import { plural, ranksText, visible } from '../common/text.js';
import { ticked } from '../common/ticked.js';
import { h } from '../dom.js';
import { framesElement, isNotebook } from '../failure/traceback.js';
import type { About, StackGroup } from '../model.js';
import type { Host } from '../source.js';
import { groupState } from './words.js';

/** More ranks than this go by their range. */
const MAX_CHIPS = 16;
const PLACE = /Cell In ?\[\d+\],? line (\d+)/;

export function groupElement(
  group: StackGroup,
  about: About | undefined,
  host: Host & { selection?: Selection }
): HTMLElement {
  const { frames } = group;
  return h(
    'li',
    { class: group.is_odd ? 'nbe-stack-group nbe-odd' : 'nbe-stack-group' },
    h(
      'div',
      { class: 'nbe-stack-head' },
      ...rankChips(group.ranks, selectionOf(host)),
      h('span', { class: 'nbe-stack-state' }, groupState(group)),
      group.is_odd ? h('span', { class: 'nbe-stack-odd' }, 'the odd one out') : null,
      h('span', { class: 'nbe-stack-doing' }, ...doingParts(group, host))
    ),
    group.notes.length ? h('ul', { class: 'nbe-stack-notes' }, ...group.notes.map(note => h('li', {}, ticked(note)))) : null,
    frames.length
      ? h(
          'details',
          { class: 'nbe-folded' },
          h('summary', {}, `Stack, ${plural(frames.length, 'frame')}`),
          framesElement(frames, about, host)
        )
      : null
  );
}

function rankChips(ranks: readonly number[], selection: Selection): HTMLElement[] {
  const chip = (text: string, rank: number, style = '') =>
    h(
      'button',
      { type: 'button', class: 'nbe-rank-chip', style, title: `Select rank ${rank}`, onclick: () => selection.select(rank) },
      text
    );
  if (ranks.length > MAX_CHIPS) {
    return [chip(ranksText(ranks), ranks[0]!)];
  }
  return ranks.map(rank => chip(`rank ${rank}`, rank, `--nbe-own: var(--nbe-rank-${Math.max(0, rank) % 8})`));
}

/** The line is a link to the cell, where the page can show it. */
function doingParts({ doing, frames }: StackGroup, host: Host): (Node | string)[] {
  const text = visible(doing, 2000);
  const open = host.openCell?.bind(host);
  const found = PLACE.exec(text);
  const inner = frames.findLast(isNotebook);
  const [label, line] = found
    ? [found[0].replace(/,? line \d+$/, ''), Number(found[1])]
    : inner
      ? [inner.file, inner.line]
      : ['', 0];
  if (!open || !label) {
    return [text];
  }
  const place = found?.[0] ?? visible(`${label}, line ${line}`, 200);
  const link = h(
    'button',
    { type: 'button', class: 'nbe-link', title: 'Show this line of the cell', onclick: () => open(label, line) },
    place
  );
  return found ? [text.slice(0, found.index), link, text.slice(found.index + place.length)] : [`${text} · `, link];
}
