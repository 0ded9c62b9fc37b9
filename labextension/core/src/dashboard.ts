/** One dashboard: its parts in order, and which of them is drawn when something changed. */

import { ALL_PARTS, type Part, type RunData } from './data.js';
import { failureView } from './failure/view.js';
import { headerView, isTicking } from './header/view.js';
import { notesView } from './header/notes.js';
import type { Tab } from './parts.js';
import { ranksView } from './ranks/view.js';
import { share } from './common/selection.js';
import type { Host } from './source.js';
import { heldView } from './standstill/held.js';
import { stacksView } from './standstill/view.js';
import { tabsView } from './tabs/view.js';
import { followTheme } from './common/theme.js';
import type { View } from './view.js';

const TIME_ALONE: ReadonlySet<Part> = new Set<Part>();

/**
 * Draw a run into an element, which may say `data-size="tab"` to be filled to its height. Views are told once a second
 * that time has passed, with an empty set, while the run lasts.
 */
export function mountDashboard(
  root: HTMLElement,
  data: RunData,
  host: Host,
  tabs: readonly Tab[]
): { dispose(): void } {
  const shared = share(host);
  const views: View[] = [
    headerView(data, shared),
    heldView(data, shared),
    failureView(data, shared),
    stacksView(data, shared),
    notesView(data),
    ranksView(data, shared),
    tabsView(data, shared, tabs)
  ];
  root.classList.add('nbe');
  root.replaceChildren(...views.map(view => view.element));
  const unfollow = followTheme(root);
  const update = (changed: ReadonlySet<Part>) => views.forEach(view => view.update(changed));
  const unlisten = data.onChange(update);
  const timer = window.setInterval(() => isTicking(data) && update(TIME_ALONE), 1000);
  update(ALL_PARTS);
  return {
    dispose() {
      window.clearInterval(timer);
      unlisten();
      unfollow();
      views.forEach(view => view.dispose());
      root.replaceChildren();
      root.classList.remove('nbe');
    }
  };
}
