/** The Stacks button: asks where the ranks are, also while the cell is busy, and again when it is pressed again. */

import { icon } from '../common/icons.js';
import type { RunData } from '../data.js';
import { h, setAttribute, setText } from '../dom.js';
import { isFinal } from '../model.js';

const DOES = 'Shows where each rank is: the Python stacks of all ranks, which go on undisturbed';

export function stacksButton(data: RunData): { button: HTMLButtonElement; update(): void } {
  const label = h('span', {}, 'Stacks');
  const ask = () => {
    if (!data.stacks.isAsked) {
      data.askStacks();
    }
  };
  const button = h('button', { type: 'button', class: 'nbe-button nbe-ask-stacks', title: DOES, onclick: ask });
  button.append(icon('stacks'), label);
  return {
    button,
    update() {
      const { snapshot, link, about, stacks } = data;
      const isThere = snapshot.workers.length > 0 && !isFinal(snapshot.state);
      button.hidden = !isThere || link === 'saved' || about?.can_stop === false;
      // It keeps the focus, so it is not disabled.
      setAttribute(button, 'aria-busy', String(stacks.isAsked));
      setText(label, stacks.isAsked ? 'Taking…' : 'Stacks');
    }
  };
}
