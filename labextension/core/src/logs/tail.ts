/** The unfinished line at the end of a file, as a terminal would show it: a carriage return draws it anew. */

const CR = 13;
const ESC = 27;

/** Of a longer line only so much is kept; the file has the rest. */
export const MAX_LINE_BYTES = 65_536;

/** What a line was when it ended. */
export interface EndedLine {
  bytes: Uint8Array;
  /** Where `bytes` begin in the file. */
  offset: number;
  /** Bytes of the line after those kept. */
  more: number;
  /** The file's next byte is its newline. */
  isWhole: boolean;
}

export class Tail {
  /** The line was drawn more than once: a progress bar. */
  isRedrawn = false;
  private buffer = new Uint8Array(256);
  private size = 0;
  private more = 0;
  private offset = 0;
  /** The next byte starts the line again: a carriage return was the last. */
  private isDue = false;
  /** Carriage returns right after what is kept. */
  private returns = 0;
  private isUp = false;

  get isEmpty(): boolean {
    return this.size === 0;
  }

  /** A view, true until the next call. */
  get bytes(): Uint8Array {
    return this.buffer.subarray(0, this.size);
  }

  get moreBytes(): number {
    return this.more;
  }

  get fileOffset(): number {
    return this.offset;
  }

  /** Add bytes without a newline, found at `offset` of the file. */
  add(bytes: Uint8Array, offset: number): void {
    if (bytes.length === 0) {
      return;
    }
    this.isUp = false;
    let end = bytes.length;
    while (end > 0 && bytes[end - 1] === CR) {
      end -= 1;
    }
    if (end === 0) {
      this.isDue = this.size > 0;
      this.returns += bytes.length;
      return;
    }
    const redrawn = bytes.lastIndexOf(CR, end - 1);
    const start = redrawn + 1;
    if (this.isDue || redrawn >= 0) {
      this.isRedrawn = true;
      this.clear();
    }
    if (this.size === 0) {
      this.offset = offset + start;
    }
    this.keep(bytes.subarray(start, end));
    this.returns = bytes.length - end;
    this.isDue = this.returns > 0;
  }

  /**
   * End the line by its newline. Undefined where it goes on: nested bars move down for their line and up again after it,
   * so that the newline of the next drawing leads back to the same line.
   */
  end(): EndedLine | undefined {
    if (!this.isUp && endsUp(this.bytes)) {
      this.isUp = true;
      this.isDue = true;
      return undefined;
    }
    if (this.returns === 1 && this.more === 0 && this.size < MAX_LINE_BYTES) {
      // CR LF: as in the file, so that neighbours stay neighbours.
      this.keep(Uint8Array.of(CR));
      this.returns = 0;
    }
    return this.close();
  }

  /** End the line where no newline will come. */
  close(): EndedLine {
    const isWhole = this.more === 0 && this.returns === 0 && !this.isUp;
    const ended = { bytes: this.buffer.slice(0, this.size), offset: this.offset, more: this.more, isWhole };
    this.clear();
    this.isRedrawn = false;
    return ended;
  }

  private clear(): void {
    this.size = 0;
    this.more = 0;
    this.returns = 0;
    this.isDue = false;
    this.isUp = false;
  }

  private keep(bytes: Uint8Array): void {
    const kept = Math.min(bytes.length, MAX_LINE_BYTES - this.size);
    this.more += bytes.length - kept;
    const size = this.size + kept;
    if (size > this.buffer.length) {
      const grown = new Uint8Array(Math.min(MAX_LINE_BYTES, Math.max(size, 2 * this.buffer.length)));
      grown.set(this.buffer.subarray(0, this.size));
      this.buffer = grown;
    }
    this.buffer.set(bytes.subarray(0, kept), this.size);
    this.size = size;
  }
}

/** Ends in "cursor up", `ESC [ A`. */
function endsUp(bytes: Uint8Array): boolean {
  const end = bytes.length;
  return end >= 3 && bytes[end - 1] === 65 && bytes[end - 2] === 91 && bytes[end - 3] === ESC;
}
