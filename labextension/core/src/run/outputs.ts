/** What the ranks display: displays, updates and clears as `outputs.jsonl` tells them, bounded in number and size. */

import type { OutputData, Sink } from '../data.js';
import { JsonLines } from './jsonlines.js';
import type { Chunk, FileKey, Output } from '../model.js';
import { record } from './shape.js';

/** Outputs kept of a rank; the oldest go first. */
export const MAX_OUTPUTS = 200;
/** Size of all ranks' outputs together. */
export const MAX_BYTES = 50e6;

interface Kept {
  output: Output;
  bytes: number;
}

class RankOutputs {
  readonly kept: Kept[] = [];
  bytes = 0;
  dropped = 0;
  version = 0;
  private shown: { version: number; outputs: Output[] } | undefined;

  constructor(private readonly rank: number) {}

  add(output: Output): void {
    this.version += 1;
    if (output.kind === 'clear') {
      this.kept.length = 0;
      this.bytes = 0;
      this.dropped = 0;
      return;
    }
    if (output.kind === 'update') {
      this.update(output);
      return;
    }
    const bytes = sizeOf(output.data);
    this.kept.push({ output, bytes });
    this.bytes += bytes;
    if (this.kept.length > MAX_OUTPUTS) {
      this.drop();
    }
  }

  /** Forget the oldest. */
  drop(): void {
    const oldest = this.kept.shift();
    if (oldest) {
      this.bytes -= oldest.bytes;
      this.dropped += 1;
      this.version += 1;
    }
  }

  /** The outputs, first a word on those that were dropped. */
  outputs(): readonly Output[] {
    if (this.shown?.version !== this.version) {
      const outputs = this.kept.map(kept => kept.output);
      if (this.dropped) {
        const many = this.dropped === 1 ? '1 earlier output is' : `${this.dropped} earlier outputs are`;
        outputs.unshift({ ...BLANK, rank: this.rank, note: `${many} not kept in the page; the run folder has all.` });
      }
      this.shown = { version: this.version, outputs };
    }
    return this.shown.outputs;
  }

  private update(output: Output): void {
    const bytes = sizeOf(output.data);
    for (const kept of this.kept) {
      if (kept.output.display_id && kept.output.display_id === output.display_id) {
        this.bytes += bytes - kept.bytes;
        kept.bytes = bytes;
        kept.output = { ...output, kind: 'display', time_ns: kept.output.time_ns };
      }
    }
  }
}

export class OutputStore implements OutputData, Sink {
  readonly ranks: number[] = [];
  private readonly lines = new Map<FileKey, JsonLines<object>>();
  private readonly byRank = new Map<number, RankOutputs>();

  of(rank: number): readonly Output[] {
    return this.byRank.get(rank)?.outputs() ?? [];
  }

  version(rank: number): number {
    return this.byRank.get(rank)?.version ?? 0;
  }

  take(chunk: Chunk, bytes: Uint8Array): void {
    const lines = this.lines.get(chunk.file) ?? new JsonLines<object>();
    this.lines.set(chunk.file, lines);
    for (const row of lines.push(bytes, chunk.skipped)) {
      const output = outputOf(row, chunk.rank);
      if (output) {
        this.append(output);
      }
    }
  }

  private append(output: Output): void {
    let outputs = this.byRank.get(output.rank);
    if (!outputs) {
      outputs = new RankOutputs(output.rank);
      this.byRank.set(output.rank, outputs);
      this.ranks.push(output.rank);
      this.ranks.sort((a, b) => a - b);
    }
    outputs.add(output);
    const all = [...this.byRank.values()];
    let bytes = all.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > MAX_BYTES) {
      const largest = all.reduce((a, b) => (b.bytes > a.bytes ? b : a));
      bytes -= largest.kept[0]?.bytes ?? bytes;
      largest.drop();
    }
  }
}

const BLANK: Output = { time_ns: 0, rank: 0, kind: 'display', display_id: '', data: {}, metadata: {}, note: '' };

/** A line as an output of that rank, whatever the line claims; undefined for what is none. */
function outputOf(row: unknown, rank: number): Output | undefined {
  const told = record(row);
  const kind = told.kind;
  if (kind !== 'display' && kind !== 'update' && kind !== 'clear') {
    return undefined;
  }
  return {
    time_ns: typeof told.time_ns === 'number' ? told.time_ns : 0,
    rank,
    kind,
    display_id: typeof told.display_id === 'string' ? told.display_id : '',
    data: record(told.data),
    metadata: record(told.metadata),
    note: typeof told.note === 'string' ? told.note : ''
  };
}

/** About what a value takes in memory. */
function sizeOf(value: unknown, depth = 0): number {
  if (typeof value === 'string') {
    return value.length;
  }
  if (typeof value !== 'object' || value === null || depth > 40) {
    return 8;
  }
  return Object.entries(value).reduce((sum, [key, one]) => sum + key.length + sizeOf(one, depth + 1), 16);
}
