/** A log store fed as the kernel feeds it, with the files that it could read back. */

import { LogStore } from '../src/index.js';
import type { Chunk, Stream } from '../src/index.js';
import { plainText } from '../src/logs/lines.js';
import { Rows } from '../src/logs/rows.js';
import { ALL, type Selection } from '../src/logs/scan.js';
import type { Matcher } from '../src/logs/search.js';

export interface Where {
  stream?: Stream;
  round?: number;
  skipped?: string;
  time_ns?: number;
}

export class Feed {
  now = 1000;
  changes = 0;
  reads = 0;
  readonly files = new Map<string, Uint8Array>();
  readonly store: LogStore;

  constructor(capBytes?: number) {
    const host = {
      read: async (file: string, offset: number, size: number) => {
        this.reads += 1;
        return this.files.get(file)!.slice(offset, offset + size);
      },
      changed: () => {
        this.changes += 1;
      },
      nowMs: () => this.now
    };
    this.store = new LogStore(host, capBytes);
  }

  say(
    rank: number,
    text: string | Uint8Array,
    { stream = 'stdout', round = 0, skipped = '', time_ns = 1 }: Where = {}
  ): void {
    const file = `0/${round}/${rank}/${stream}`;
    const before = Buffer.from(this.files.get(file) ?? new Uint8Array());
    const bytes = typeof text === 'string' ? new TextEncoder().encode(text) : text;
    this.files.set(file, new Uint8Array(Buffer.concat([before, Buffer.from(skipped), bytes])));
    const at: Chunk = {
      file,
      kind: stream,
      node: 0,
      round,
      local_rank: rank,
      rank,
      offset: before.length + skipped.length,
      size: bytes.length,
      time_ns,
      skipped: skipped.length
    };
    this.store.take(at, bytes);
  }

  text(row: number): string {
    const shown = this.store.row(row);
    if (shown.kind !== 'line') {
      return shown.kind === 'gap' ? `<gap ${shown.mark.size}>` : `<round ${shown.mark.round}>`;
    }
    return shown.bytes === undefined ? '<waiting>' : `${shown.file.rank}: ${plainText(shown)}`;
  }

  /** All rows, then the unfinished lines. */
  all(): string[] {
    this.now += 1000;
    const rows = Array.from({ length: this.store.book.rowCount }, (_, row) => this.text(row));
    return [...rows, ...this.store.live().map(file => `${file.rank}> ${plainText(this.store.liveRow(file))}`)];
  }

  rows(selection: Partial<Selection> = {}, matcher?: Matcher, isFolding = false): Rows {
    const rows = new Rows(this.store, { ...ALL, ...selection }, matcher, isFolding);
    while (!rows.advance(Infinity));
    return rows;
  }

  shown(rows: Rows): string[] {
    rows.advance(Infinity);
    return Array.from({ length: rows.count }, (_, index) => {
      const { row, group } = rows.at(index);
      return group === undefined ? this.text(row) : `${group.length}x ${this.text(row)}`;
    });
  }
}
