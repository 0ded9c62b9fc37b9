/** What the run had to tell its user once: warnings first, information folded when there is much of it. */

import type { RunData } from '../data.js';
import { h } from '../dom.js';
import { icon } from '../common/icons.js';
import type { Snapshot } from '../model.js';
import { plural, visible } from '../common/text.js';
import type { View } from '../view.js';

const OPEN_NOTES = 2;
const INLINE_CHARS = 90;

/** A run's only note, if it is short and no warning: it has room in the head, where it moves nothing. */
export function inlineNote({ notes }: Snapshot): string {
  const [level, text] = notes.length === 1 ? notes[0]! : ['', ''];
  return level === 'info' && text.length <= INLINE_CHARS ? visible(text) : '';
}

export function notesView(data: RunData): View {
  const element = h('div', { class: 'nbe-notes', role: 'note', hidden: true });
  let drawn = '';
  return {
    element,
    update() {
      const { notes } = data.snapshot;
      const key = JSON.stringify(notes);
      if (key === drawn) {
        return;
      }
      drawn = key;
      const sorted = [...notes].sort((a, b) => Number(b[0] === 'warning') - Number(a[0] === 'warning'));
      const lines = sorted.map(([level, text]) => noteLine(level, text));
      const rest = lines.splice(OPEN_NOTES);
      element.replaceChildren(...lines);
      if (rest.length) {
        element.append(h('details', {}, h('summary', {}, plural(rest.length, 'more note')), ...rest));
      }
      element.hidden = !notes.length || inlineNote(data.snapshot) !== '';
    },
    dispose() {}
  };
}

function noteLine(level: string, text: string): HTMLElement {
  const isWarning = level === 'warning';
  return h(
    'div',
    { class: isWarning ? 'nbe-note nbe-warning' : 'nbe-note' },
    icon(isWarning ? 'warning' : 'info'),
    h('span', {}, h('span', { class: 'nbe-unseen' }, isWarning ? 'Warning: ' : 'Note: '), visible(text))
  );
}
