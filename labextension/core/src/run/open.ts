/** Follows a run over a source, with a store for each kind of data. */

import { RunClient } from './client.js';
import { MetricStore } from './metrics.js';
import { OutputStore } from './outputs.js';
import type { Source } from '../source.js';
import { UsageStore } from './usage.js';

/** Open a run; without an id the one that the source stands for. */
export function openRun(source: Source, runId?: string): RunClient {
  return new RunClient(source, runId, { metrics: new MetricStore(), usage: new UsageStore(), outputs: new OutputStore() });
}
