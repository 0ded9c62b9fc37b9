/** What the ranks use of the machine, as `usage.jsonl` tells once a second: the last ten minutes of each rank. */

import type { Sink, UsageData } from '../data.js';
import { JsonLines } from './jsonlines.js';
import type { Chunk, FileKey, Usage } from '../model.js';

/** Samples kept of a rank. */
export const MAX_SAMPLES = 600;

/** One sample and when it was taken. */
export interface UsageSample extends Usage {
  time_ns: number;
}

const GPU_KEYS = ['gpu_percent', 'gpu_memory_bytes', 'gpu_memory_total_bytes'] as const;

export class UsageStore implements UsageData, Sink {
  private readonly lines = new Map<FileKey, JsonLines<object>>();
  private readonly byRank = new Map<number, UsageSample[]>();

  last(rank: number): UsageSample | undefined {
    return this.byRank.get(rank)?.at(-1);
  }

  history(rank: number): readonly UsageSample[] {
    return this.byRank.get(rank) ?? [];
  }

  /** Ranks that anything is known of. */
  get ranks(): number[] {
    return [...this.byRank.keys()].sort((a, b) => a - b);
  }

  take(chunk: Chunk, bytes: Uint8Array): void {
    const lines = this.lines.get(chunk.file) ?? new JsonLines<object>();
    this.lines.set(chunk.file, lines);
    for (const row of lines.push(bytes, chunk.skipped)) {
      this.append(row);
    }
  }

  private append(row: unknown): void {
    const { time_ns, ranks } = (row ?? {}) as { time_ns?: unknown; ranks?: unknown };
    if (typeof time_ns !== 'number' || !Array.isArray(ranks)) {
      return;
    }
    for (const told of ranks) {
      const sample = sampleOf(told, time_ns);
      if (sample) {
        this.keep(sample);
      }
    }
  }

  private keep(sample: UsageSample): void {
    const samples = this.byRank.get(sample.rank) ?? [];
    this.byRank.set(sample.rank, samples);
    samples.push(sample);
    if (samples.length > MAX_SAMPLES) {
      samples.shift();
    }
  }
}

function sampleOf(told: unknown, time_ns: number): UsageSample | undefined {
  const usage = (told ?? {}) as Partial<Record<keyof Usage, unknown>>;
  const number = (key: keyof Usage): number | undefined => {
    const value = usage[key];
    return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
  };
  const rank = number('rank');
  // A process that has just ended, and is not yet waited for, has no memory.
  if (rank === undefined || !Number.isInteger(rank) || number('memory_bytes') === 0) {
    return undefined;
  }
  const sample: UsageSample = {
    time_ns,
    rank,
    local_rank: number('local_rank') ?? rank,
    cpu_percent: number('cpu_percent') ?? 0,
    memory_bytes: number('memory_bytes') ?? 0
  };
  for (const key of GPU_KEYS) {
    const value = number(key);
    if (value !== undefined) {
      sample[key] = value;
    }
  }
  return sample;
}
