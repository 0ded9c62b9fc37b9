/** What every part of the dashboard is. */

import type { Part } from './data.js';

export interface View {
  readonly element: HTMLElement;
  /** Draw what changed; called at most once a frame, and only while the view is shown. */
  update(changed: ReadonlySet<Part>): void;
  dispose(): void;
}
