/** The logs of a run: bytes as they came, lines found in them, text made only of what is seen. */

import type { LastLine, LogData, Sink } from '../data.js';
import type { Chunk, FileKey, Stream } from '../model.js';
import { Book } from './book.js';
import { LIVE_MS, LogFile } from './file.js';
import { Page, type Mark } from './page.js';
import type { StoreHost } from './store_host.js';
import { PageReader } from './reader.js';
import { MAX_LINE_BYTES, type EndedLine } from './tail.js';
import { decode } from './text.js';

export { LIVE_MS };

/** A row of the merged log. */
export type Row = LineRow | MarkRow;

export interface LineRow {
  kind: 'line';
  file: LogFile;
  /** Undefined while they are not here: they were given up, and are read back. */
  bytes: Uint8Array | undefined;
  time_ns: number;
  /** Where the line begins in its file, -1 while unknown. */
  offset: number;
  /** Bytes of the line that were not kept. */
  more: number;
  /** Why it could not be read back, or "". */
  error: string;
  /** Not yet ended by a newline. */
  isLive: boolean;
}

export interface MarkRow {
  kind: 'gap' | 'round';
  mark: Mark;
  file: LogFile | undefined;
}

const CR = 13;
/** Of a gap so much is read at once. */
const MAX_FILL_BYTES = 8_000_000;
export const DEFAULT_CAP_BYTES = 200_000_000;

export class LogStore implements LogData, Sink {
  readonly files: LogFile[] = [];
  readonly book: Book;
  private readonly byKey = new Map<FileKey, LogFile>();
  private readonly rounds = new Map<number, number>();
  private readonly reader: PageReader;

  constructor(
    private readonly host: StoreHost,
    capBytes = DEFAULT_CAP_BYTES
  ) {
    this.book = new Book(capBytes);
    this.reader = new PageReader(host, this.files);
  }

  get ranks(): number[] {
    return [...new Set(this.files.map(file => file.rank))].sort((a, b) => a - b);
  }

  take(chunk: Chunk, bytes: Uint8Array): void {
    const file = this.fileOf(chunk);
    if (chunk.skipped > 0) {
      this.closeTail(file);
      const [offset, size] = [chunk.offset - chunk.skipped, chunk.skipped];
      this.book.addMark({ kind: 'gap', file: file.index, offset, size, time_ns: chunk.time_ns });
    }
    const end = bytes.lastIndexOf(10) + 1;
    const region = bytes.subarray(0, end);
    if (end > 0) {
      const isPlain =
        region.indexOf(CR) < 0 && !file.tail.isRedrawn && file.tail.moreBytes === 0 && !hasLongLine(region);
      if (isPlain) {
        this.addPlain(file, chunk, region);
      } else {
        this.addSlowly(file, chunk, region);
      }
    }
    if (file.tail.isEmpty) {
      file.tailMs = this.host.nowMs();
    }
    file.tail.add(bytes.subarray(end), chunk.offset + end);
    file.touch(chunk.time_ns);
    this.book.giveUp();
  }

  /** Files whose unfinished line is to be shown, by rank. */
  live(): LogFile[] {
    const now = this.host.nowMs();
    const live = this.files.filter(file => file.isLive(now));
    return live.sort((a, b) => a.rank - b.rank || a.index - b.index);
  }

  /** Some unfinished line will be live before long, without news. */
  get isLiveDue(): boolean {
    return this.files.some(
      file => !file.tail.isEmpty && !file.tail.isRedrawn && this.host.nowMs() - file.tailMs < LIVE_MS
    );
  }

  liveRow(file: LogFile): LineRow {
    const { bytes, moreBytes, fileOffset } = file.tail;
    return {
      kind: 'line',
      file,
      bytes,
      time_ns: file.time_ns,
      offset: fileOffset,
      more: moreBytes,
      error: '',
      isLive: true
    };
  }

  /** A row by its number; asks for its bytes where they were given up and `isWanted`. */
  row(number: number, isWanted = true): Row {
    const part = this.book.parts[this.book.partOf(number)]!;
    if (!(part instanceof Page)) {
      return { kind: part.kind, mark: part, file: this.files[part.file] };
    }
    const row = number - part.firstRow;
    const run = part.run(part.runOf(row));
    const file = this.files[run.file]!;
    const base = { kind: 'line' as const, file, time_ns: run.time_ns, error: part.error, isLive: false };
    if (part.bytes === undefined) {
      if (isWanted) {
        this.reader.want(part);
      }
      return { ...base, bytes: undefined, offset: -1, more: 0 };
    }
    const starts = this.book.startsOf(part);
    const start = starts[row]!;
    const more = part.more.get(row) ?? 0;
    const bytes = part.bytes.subarray(start, starts[row + 1]! - 1);
    return { ...base, bytes, offset: run.offset + start - run.start, more };
  }

  /** Read a page back; resolves when its bytes are here. */
  async fetch(page: Page): Promise<void> {
    if (page.bytes === undefined) {
      await this.reader.fetch(page);
    }
  }

  /** Read what a gap lacks, of a large one its last part, and put it where it belongs. */
  async fill(mark: Mark): Promise<void> {
    const file = this.files[mark.file]!;
    const size = Math.min(mark.size, MAX_FILL_BYTES);
    mark.isReading = true;
    mark.error = '';
    this.host.changed();
    try {
      const bytes = await this.host.read(file.key, mark.offset + mark.size - size, size);
      if (bytes.length < size) {
        throw new Error('the log file is shorter than it was');
      }
      mark.size -= size;
      this.book.insert(mark, this.pagesOf(file, mark, bytes));
    } catch (error) {
      mark.error = (error as Error).message;
    }
    mark.isReading = false;
    this.host.changed();
  }

  last(rank: number): LastLine | undefined {
    const files = this.files.filter(file => file.rank === rank);
    const round = Math.max(...files.map(file => file.round));
    const lines = files.filter(file => file.round === round).map(file => file.last(this.host.nowMs()));
    const latest = lines.filter(line => line.text !== '').sort((a, b) => b.time_ns - a.time_ns);
    const line = latest[0];
    // Prints beside a bar do not take the bar away.
    return line && { ...line, bar: latest.find(other => other.bar !== undefined)?.bar };
  }

  lineCount(rank?: number): number {
    const counts = this.files.map(file => (rank === undefined || file.rank === rank ? file.lines : 0));
    return counts.reduce((sum, lines) => sum + lines, 0);
  }

  tail(rank: number, count: number): { stream: Stream; text: string }[] {
    const live = this.files.filter(file => file.rank === rank && !file.tail.isEmpty);
    const found = live.map(file => ({ stream: file.stream, text: decode(file.tail.bytes) })).reverse();
    const { parts } = this.book;
    for (let at = parts.length - 1; at >= 0 && found.length < count; at--) {
      const page = parts[at]!;
      if (page instanceof Page && page.bytes !== undefined) {
        this.tailOf(page, rank, count, found);
      }
    }
    return found.slice(0, count).reverse();
  }

  /** A file's lines that are in memory, newlines and all. */
  linesOf(file: LogFile): Uint8Array[] {
    const lines: Uint8Array[] = [];
    for (const page of this.book.parts) {
      for (let index = 0; page instanceof Page && page.bytes !== undefined && index < page.runCount; index++) {
        const run = page.run(index);
        if (run.file === file.index) {
          lines.push(page.bytes.subarray(run.start, run.end));
        }
      }
    }
    return [...lines, file.tail.bytes.slice()];
  }

  private tailOf(page: Page, rank: number, count: number, found: { stream: Stream; text: string }[]): void {
    for (let index = page.runCount - 1; index >= 0; index--) {
      const run = page.run(index);
      const file = this.files[run.file]!;
      for (let row = run.endRow - 1; file.rank === rank && row >= run.row; row--) {
        if (found.length >= count) {
          return;
        }
        found.push({ stream: file.stream, text: decode(page.line(row)) });
      }
    }
  }

  private fileOf(chunk: Chunk): LogFile {
    let file = this.byKey.get(chunk.file);
    if (file === undefined) {
      file = new LogFile(this.files.length, chunk);
      this.files.push(file);
      this.byKey.set(chunk.file, file);
      this.beginRound(chunk);
    }
    return file;
  }

  private beginRound({ node, round, time_ns }: Chunk): void {
    const latest = Math.max(-1, ...this.rounds.values());
    if (round > (this.rounds.get(node) ?? -1)) {
      this.rounds.set(node, round);
      this.files.filter(file => file.node === node && file.round < round).forEach(file => this.closeTail(file));
    }
    if (round > latest && (latest >= 0 || round > 0)) {
      this.book.addMark({ kind: 'round', round, time_ns });
    }
  }

  private closeTail(file: LogFile): void {
    if (!file.tail.isEmpty) {
      this.addLine(file, file.time_ns, { ...file.tail.close(), isWhole: false });
    }
  }

  /** Whole lines as they are. */
  private addPlain(file: LogFile, chunk: Chunk, region: Uint8Array): void {
    let start = 0;
    if (!file.tail.isEmpty) {
      start = region.indexOf(10) + 1;
      file.tail.add(region.subarray(0, start - 1), chunk.offset);
      this.endTail(file, chunk.time_ns);
    }
    if (start < region.length) {
      file.lines += this.book.write(file.index, chunk.time_ns, chunk.offset + start, region.subarray(start));
      file.ended(region.subarray(start));
    }
  }

  /** Line by line: some are redrawn in place, or too long. */
  private addSlowly(file: LogFile, chunk: Chunk, region: Uint8Array): void {
    let start = 0;
    for (let end = region.indexOf(10); end >= 0; end = region.indexOf(10, start)) {
      file.tail.add(region.subarray(start, end), chunk.offset + start);
      this.endTail(file, chunk.time_ns);
      start = end + 1;
    }
  }

  private endTail(file: LogFile, time_ns: number): void {
    const ended = file.tail.end();
    if (ended !== undefined) {
      this.addLine(file, time_ns, ended);
    }
  }

  private addLine(file: LogFile, time_ns: number, { bytes, offset, more, isWhole }: EndedLine): void {
    file.ended(bytes);
    const line = new Uint8Array(bytes.length + 1);
    line.set(bytes);
    line[bytes.length] = 10;
    file.lines += this.book.write(file.index, time_ns, offset, line);
    if (!isWhole) {
      this.book.close(more);
    }
  }

  /** Lines of a file as pages of their own. */
  private pagesOf(file: LogFile, mark: Mark, bytes: Uint8Array): Page[] {
    const store = new LogStore(this.host);
    const { key, node, localRank, rank, stream } = file;
    const at = { file: key, kind: stream, node, round: 0, local_rank: localRank, rank, skipped: 0 };
    const offset = mark.offset + mark.size;
    store.take({ ...at, offset, size: bytes.length, time_ns: mark.time_ns }, bytes);
    store.closeTail(store.files[0]!);
    store.book.seal();
    file.lines += store.book.rowCount;
    const pages = store.book.parts.filter(part => part instanceof Page);
    pages.forEach(page => page.moveTo(file.index));
    return pages;
  }
}

/** A line above the limit; a shorter region cannot hold one. */
function hasLongLine(region: Uint8Array): boolean {
  for (let start = 0; region.length - start > MAX_LINE_BYTES;) {
    const end = region.lastIndexOf(10, start + MAX_LINE_BYTES);
    if (end < start) {
      return true;
    }
    start = end + 1;
  }
  return false;
}
