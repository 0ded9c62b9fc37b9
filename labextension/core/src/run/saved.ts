/** A run's dashboard from what was saved in the notebook: speaks as a kernel would, once, and knows nothing more. */

import type { Chunk, FileKind, SavedRun, Snapshot, Stream } from '../model.js';
import { aboutOf, list, record, snapshotOf } from './shape.js';
import type { FromKernel, Handler, Source, ToKernel } from '../source.js';

let count = 0;

/** Make a source of a saved run; whatever is wrong in it is left out. */
export function savedSource(saved: SavedRun): Source {
  const handlers = new Set<Handler>();
  const view = `saved-${(count += 1)}`;
  const tell = (message: FromKernel, buffer?: Uint8Array): void =>
    handlers.forEach(handler => handler({ ...message, view }, buffer));
  return {
    kind: 'saved',
    view,
    saved,
    send(message: ToKernel): void {
      queueMicrotask(() => answer(message, saved, tell));
    },
    onMessage(handler: Handler): () => void {
      handlers.add(handler);
      return () => handlers.delete(handler);
    },
    dispose(): void {
      handlers.clear();
    }
  };
}

function answer(message: ToKernel, saved: SavedRun, tell: Handler): void {
  if (message.type === 'read') {
    tell({ type: 'error', text: 'A saved run has only what was saved with the notebook.' });
  } else if (message.type === 'stop') {
    tell({ type: 'stopping', ok: false, text: 'This is a saved run: there is nothing to stop.' });
  } else if (message.type === 'open') {
    const told = record(saved);
    const snapshot = snapshotOf(told.snapshot);
    const dir = typeof told.dir === 'string' ? told.dir : '';
    const time_ns = number(told.saved_ns) ?? (snapshot.finished_ns || snapshot.last_ns);
    const { chunks, buffer } = filesOf(told, snapshot, time_ns);
    tell({ type: 'hello', version: 1, about: aboutOf(told.about, snapshot, dir), time_ns });
    tell({ type: 'state', seq: 1, snapshot, time_ns });
    tell({ type: 'chunks', seq: 2, chunks, time_ns }, buffer);
    tell({ type: 'beat', seq: 3, time_ns, is_over: true });
  }
}

/** Collects texts as the files they came from. */
class Files {
  readonly chunks: Chunk[] = [];
  private readonly parts: Uint8Array[] = [];
  private readonly sizes = new Map<string, number>();
  private readonly encoder = new TextEncoder();

  constructor(private readonly time_ns: number) {}

  add(place: Omit<Chunk, 'file' | 'offset' | 'size' | 'time_ns' | 'skipped'>, text: string, time_ns?: number): void {
    const { node, round, local_rank, kind } = place;
    const file = kind === 'usage' ? `${node}/usage` : `${node}/${round}/${local_rank}/${kind}`;
    const bytes = this.encoder.encode(text);
    const offset = this.sizes.get(file) ?? 0;
    this.sizes.set(file, offset + bytes.length);
    this.parts.push(bytes);
    this.chunks.push({
      ...place,
      file,
      offset,
      size: bytes.length,
      time_ns: time_ns ?? this.time_ns,
      skipped: 0
    });
  }

  /** All chunks' bytes, one after the other. */
  bytes(): Uint8Array {
    const whole = new Uint8Array(this.parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.parts) {
      whole.set(part, at);
      at += part.length;
    }
    return whole;
  }
}

type Place = Omit<Chunk, 'kind' | 'file' | 'offset' | 'size' | 'time_ns' | 'skipped'>;

function filesOf(
  told: Record<string, unknown>,
  snapshot: Snapshot,
  time_ns: number
): { chunks: Chunk[]; buffer: Uint8Array } {
  const files = new Files(time_ns);
  const places = new Map<number, Place>();
  for (const { node, round, local_rank, rank } of snapshot.workers) {
    places.set(rank, { node, round, local_rank, rank });
  }
  const placeOf = (rank: number): Place =>
    places.get(rank) ?? { node: 0, round: snapshot.round, local_rank: rank, rank };

  for (const [rank, tails] of Object.entries(record(told.tails))) {
    for (const stream of ['stdout', 'stderr'] satisfies Stream[]) {
      const lines = list(record(tails)[stream]).filter(line => typeof line === 'string');
      if (lines.length && /^\d+$/.test(rank)) {
        files.add({ ...placeOf(Number(rank)), kind: stream }, `${lines.join('\n')}\n`);
      }
    }
  }
  addRows(files, list(told.metrics), 'metrics', placeOf);
  addRows(files, list(told.outputs), 'outputs', placeOf);
  for (const row of list(told.usage)) {
    const first = record(list(record(row).ranks)[0]);
    const { node } = placeOf(number(first.rank) ?? 0);
    const place = { node, round: number(record(row).round) ?? 0, local_rank: 0, rank: 0 };
    files.add({ ...place, kind: 'usage' }, lineOf(row), number(record(row).time_ns));
  }
  return { chunks: files.chunks, buffer: files.bytes() };
}

/** Rows of ranks as JSON lines, in the order in which they were saved: one chunk for a stretch of one rank. */
function addRows(files: Files, rows: unknown[], kind: FileKind, placeOf: (rank: number) => Place): void {
  let from = 0;
  while (from < rows.length) {
    const { rank, round } = record(rows[from]);
    let to = from + 1;
    while (to < rows.length && record(rows[to]).rank === rank && record(rows[to]).round === round) {
      to += 1;
    }
    const owner = number(rank);
    if (owner !== undefined && Number.isInteger(owner) && owner >= 0) {
      const place = placeOf(owner);
      const lines = rows.slice(from, to).map(lineOf);
      const time_ns = number(record(rows[from]).time_ns);
      files.add({ ...place, round: number(round) ?? place.round, kind }, lines.join(''), time_ns);
    }
    from = to;
  }
}

function lineOf(row: unknown): string {
  try {
    return `${JSON.stringify(row)}\n`;
  } catch {
    return ''; // nested too deep
  }
}

function number(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}
