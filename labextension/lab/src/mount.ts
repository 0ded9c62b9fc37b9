/** Draws a source's run: where this door meets the core. */

import { mountDashboard, openRun, TABS, type Host, type RunData, type Source } from '@nb-elastic/core';

export interface Mounted {
  readonly data: RunData;
  dispose(): void;
}

export function mountRun(root: HTMLElement, source: Source, host: Host, runId?: string): Mounted {
  const data: RunData = openRun(source, runId);
  const dashboard = mountDashboard(root, data, host, TABS);
  return {
    data,
    dispose: () => {
      dashboard.dispose();
      data.dispose();
      source.dispose();
    }
  };
}
