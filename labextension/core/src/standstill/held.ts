/** The banner of ranks that wait to be looked at: where they are, and the commands that look. */

import { copyFrom } from '../common/clipboard.js';
import { icon } from '../common/icons.js';
import { selectionOf, type Selection } from '../common/selection.js';
import type { RunData } from '../data.js';
import { h } from '../dom.js';
import { isFinal } from '../model.js';
import type { Host } from '../source.js';
import type { View } from '../view.js';
import { heldOf, type Command, type Held } from './words.js';

export function heldView(data: RunData, host: Host & { selection?: Selection }): View {
  const selection = selectionOf(host);
  const element = h('div', { class: 'nbe-ends' });
  let drawn = '[]';
  return {
    element,
    update() {
      const held = isFinal(data.snapshot.state) ? [] : heldOf(data.snapshot);
      const key = JSON.stringify(held);
      if (key !== drawn) {
        drawn = key;
        element.replaceChildren(...held.map(one => banner(one, selection)));
      }
    },
    dispose() {}
  };
}

function banner(held: Held, selection: Selection): HTMLElement {
  const places = held.places.map(([rank, text]) =>
    h(
      'div',
      { class: 'nbe-held-place' },
      h('button', { type: 'button', class: 'nbe-link', title: 'Select this rank', onclick: () => selection.select(rank) }, `rank ${rank}`),
      h('span', { class: 'nbe-mono' }, text)
    )
  );
  const { before, after } = held;
  return h(
    'section',
    { class: 'nbe-card nbe-held', role: 'status', 'aria-label': 'Held ranks' },
    h('div', { class: 'nbe-card-title' }, icon('held'), held.title),
    ...places,
    before || after
      ? h('div', { class: 'nbe-commands' }, before, ...held.commands.map(commandButton), h('span', { class: 'nbe-muted' }, after))
      : null
  );
}

/** A command that a click copies. */
function commandButton({ shown, copied }: Command): HTMLElement {
  const label = h('span', {}, 'Copy');
  const button = h('button', {
    type: 'button',
    class: 'nbe-button',
    'aria-label': `Copy ${shown}`,
    onclick: () => void copyFrom(button, label, copied)
  });
  button.append(icon('copy'), label);
  return h('span', { class: 'nbe-command-copy' }, h('code', { class: 'nbe-command' }, shown), button);
}
