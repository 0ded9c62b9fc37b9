/** What the ranks use, over time: CPU, memory and, where there are any, GPUs. */

import type { Line } from './lines.js';
import { numberText, type ChartStyle } from './options.js';
import type { ChartPanel, Feed } from './panel.js';
import type { RunData } from '../data.js';
import type { Usage } from '../model.js';
import { bytesText } from '../common/text.js';

type Key = 'cpu_percent' | 'memory_bytes' | 'gpu_percent' | 'gpu_memory_bytes';

const percent = (value: number): string => (Number.isFinite(value) ? `${numberText(Math.round(value))} %` : '-');
const bytes = (value: number): string => (Number.isFinite(value) ? bytesText(value) : '-');
const POWERS = Array.from({ length: 50 }, (_, i) => 2 ** i);

const CHARTS: [key: Key, title: string, style: Omit<ChartStyle, 'syncKey'>][] = [
  ['cpu_percent', 'CPU (100 % is one)', { format: percent, floor: 0, ceiling: 100 }],
  ['memory_bytes', 'Memory', { format: bytes, floor: 0, increments: POWERS }],
  ['gpu_percent', 'GPU', { format: percent, floor: 0, ceiling: 100 }],
  ['gpu_memory_bytes', 'GPU memory', { format: bytes, floor: 0, increments: POWERS }]
];

/** Add the charts of what was measured so far; true if there is any. */
export function haveUsage(panel: ChartPanel, data: RunData, zero_ns: () => number, syncKey: string): boolean {
  const ranks = ranksOf(data);
  for (const [key, title, style] of CHARTS) {
    if (ranks.some(rank => data.usage.last(rank)?.[key] !== undefined)) {
      panel.have(key, title, { ...style, syncKey }, feed(data, key, zero_ns));
    }
  }
  return panel.size > 0;
}

/** Every rank that a worker of the run has or had. */
export function ranksOf(data: RunData): number[] {
  const ranks = new Set([...data.snapshot.workers.map(worker => worker.rank), ...data.metrics.ranks]);
  return [...ranks].sort((a, b) => a - b);
}

function feed(data: RunData, key: Key, zero_ns: () => number): Feed {
  return () => ranksOf(data).map(rank => lineOf(rank, data.usage.history(rank), key, zero_ns()));
}

/** Samples in whole seconds, so that those of all nodes fall together. */
function lineOf(rank: number, samples: readonly (Usage & { time_ns?: number })[], key: Key, zero_ns: number): Line {
  const xs: number[] = [];
  const ys: (number | null)[] = [];
  samples.forEach((sample, i) => {
    const second = sample.time_ns === undefined ? i : Math.max(0, Math.round((sample.time_ns - zero_ns) / 1e9));
    if (second === xs.at(-1)) {
      ys.pop();
    } else if (second > (xs.at(-1) ?? -1)) {
      xs.push(second);
    } else {
      return; // a clock was set back
    }
    ys.push(sample[key] ?? null);
  });
  return { rank, xs, ys, age: 0 };
}
