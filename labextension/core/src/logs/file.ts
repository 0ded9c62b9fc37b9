/** One stream of one worker in one round, as the log store knows it. */

import type { Bar, LastLine } from '../data.js';
import type { Chunk, FileKey, Stream } from '../model.js';
import { strip } from './ansi.js';
import { parseBar } from './bars.js';
import { Tail } from './tail.js';
import { decode, showControls } from './text.js';

const MAX_LAST_CHARS = 400;
/** An unfinished line is shown after so long: until then the rest of it is only on its way. */
export const LIVE_MS = 150;

export class LogFile {
  readonly key: FileKey;
  readonly node: number;
  readonly round: number;
  readonly localRank: number;
  readonly rank: number;
  readonly stream: Stream;
  readonly tail = new Tail();
  time_ns = 0;
  /** When the unfinished line was begun, by the page's clock. */
  tailMs = 0;
  /** Lines that ended. */
  lines = 0;
  /** The latest line that is no blank one, of those that ended. */
  private lastLine: Uint8Array = new Uint8Array();
  /** Counts up with all that comes. */
  version = 0;
  private cache: { version: number; isLive: boolean; line: LastLine } | undefined;

  constructor(
    readonly index: number,
    chunk: Chunk
  ) {
    this.key = chunk.file;
    this.node = chunk.node;
    this.round = chunk.round;
    this.localRank = chunk.local_rank;
    this.rank = chunk.rank;
    this.stream = chunk.kind as Stream;
  }

  get title(): string {
    return `rank ${this.rank} ${this.stream}${this.round > 0 ? `, round ${this.round}` : ''}`;
  }

  /** Tell of new bytes. */
  touch(time_ns: number): void {
    this.version += 1;
    this.time_ns = time_ns;
  }

  /** Tell of whole lines, from the first byte of the first on. */
  ended(lines: Uint8Array): void {
    this.lastLine = lastSolidLine(lines) ?? this.lastLine;
  }

  /** Its unfinished line is one to look at: a bar, or one that has stood for a while. Of others more words are on their way. */
  isLive(nowMs: number): boolean {
    return !this.tail.isEmpty && (this.tail.isRedrawn || nowMs - this.tailMs >= LIVE_MS);
  }

  /** What it shows at its end, "" where it has nothing yet. */
  last(nowMs: number): LastLine {
    const isLive = this.isLive(nowMs);
    if (this.cache?.version !== this.version || this.cache.isLive !== isLive) {
      const text = (isLive && clean(this.tail.bytes)) || clean(this.lastLine) || clean(this.tail.bytes);
      const bar: Bar | undefined = parseBar(text);
      const shown = text.length > MAX_LAST_CHARS ? `${text.slice(0, MAX_LAST_CHARS)}…` : text;
      const line = { stream: this.stream, text: shown, time_ns: this.time_ns, bar };
      this.cache = { version: this.version, isLive, line };
    }
    return this.cache!.line;
  }
}

function clean(bytes: Uint8Array): string {
  return showControls(strip(decode(bytes.subarray(0, 8 * MAX_LAST_CHARS)))).trimEnd();
}

/** A copy of the last line with something else than blanks. */
function lastSolidLine(bytes: Uint8Array): Uint8Array | undefined {
  let end = bytes.length - 1;
  while (end >= 0 && bytes[end]! <= 32) {
    end -= 1;
  }
  if (end < 0) {
    return undefined;
  }
  const start = bytes.lastIndexOf(10, end) + 1;
  return bytes.slice(start, Math.min(end + 1, start + 8 * MAX_LAST_CHARS));
}
