/** The charts' code, which the widget is sent only when somebody looks at them: they are the larger half of its size. */

import type { Drawn, Source } from '@nb-elastic/core';

/** How often a kernel that does not answer is asked again: its cell may keep it from hearing. */
const AGAIN_MS = 3000;

/** Load the charts over a run's source, once for all that ask. What the kernel sends unasked is kept for the first who does. */
export function chartsLoader(source: Source): () => Promise<Drawn> {
  let bytes: Uint8Array | undefined;
  let got: (() => void) | undefined;
  let module: Promise<Drawn> | undefined;
  source.onMessage((message, buffer) => {
    if (message.type === 'asset' && buffer !== undefined) {
      bytes = buffer.slice();
      got?.();
    }
  });
  const fetched = async () => {
    while (bytes === undefined) {
      source.send({ type: 'asset', name: 'charts.js', view: source.view });
      await new Promise<void>(done => {
        got = done;
        setTimeout(done, AGAIN_MS);
      });
    }
    return imported(bytes);
  };
  return () => {
    module ??= fetched();
    module.catch(() => (module = undefined));
    return module;
  };
}

async function imported(bytes: Uint8Array): Promise<Drawn> {
  const url = URL.createObjectURL(new Blob([bytes as BlobPart], { type: 'text/javascript' }));
  try {
    const module = (await import(url)) as { metricsView: Drawn };
    return module.metricsView;
  } finally {
    URL.revokeObjectURL(url);
  }
}
