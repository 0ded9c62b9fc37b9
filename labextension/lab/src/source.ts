/** A run's data over a kernel's link; many dashboards share one comm, each with a view id of its own. */

import { UUID } from '@lumino/coreutils';
import type { SavedRun, Source, ToKernel } from '@nb-elastic/core';
import type { KernelLink } from './link.js';

export function labSource(link: KernelLink, runId: string, saved?: SavedRun): Source {
  const view = UUID.uuid4();
  let held: ToKernel | undefined; // The latest `open` that nobody could hear yet.
  const onChanged = (): void => {
    if (held && link.send(held)) {
      held = undefined;
    }
  };
  link.changed.connect(onChanged);
  return {
    kind: 'lab',
    view,
    saved,
    send: message => {
      const whole = { ...message, view, run: runId };
      if (message.type === 'open') {
        held = link.send(whole) ? undefined : whole;
      } else {
        link.send(whole);
      }
    },
    onMessage: handler =>
      link.onMessage((message, buffer) => {
        if (message.view === view) {
          handler(message, buffer);
        }
      }),
    dispose: () => void link.changed.disconnect(onChanged)
  };
}
