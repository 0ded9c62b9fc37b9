/** A part whose code comes only when somebody looks at it. */

import { ALL_PARTS, type RunData } from '../data.js';
import { h } from '../dom.js';
import type { Drawn } from '../parts.js';
import type { Shared } from '../common/selection.js';
import type { View } from '../view.js';

/** Draw with what `load` brings; it is asked again at the next look after it failed. */
export function late(load: () => Promise<Drawn>): Drawn {
  return (data: RunData, host: Shared): View => {
    const element = h('div', { class: 'nbe-late' });
    let view: View | undefined;
    let isGone = false;
    let isAsked = false;
    const ask = async () => {
      isAsked = true;
      element.textContent = 'Waiting for the kernel to send the charts …';
      try {
        const drawn = await load();
        if (!isGone) {
          view = drawn(data, host);
          element.replaceChildren(view.element);
          view.update(ALL_PARTS);
        }
      } catch (error) {
        isAsked = false;
        element.textContent = `The charts could not be loaded: ${error instanceof Error ? error.message : error}`;
      }
    };
    return {
      element,
      update(changed) {
        if (view) {
          view.update(changed);
        } else if (!isAsked) {
          void ask();
        }
      },
      dispose() {
        isGone = true;
        view?.dispose();
      }
    };
  };
}
