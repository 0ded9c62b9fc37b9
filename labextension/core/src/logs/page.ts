/** A stretch of the merged log: whole lines of several files as they came, in one piece of memory that can be given up and read back. */

const NEWLINE = 10;

export const PAGE_BYTES = 262_144;

/** Fields of a run in its page's list. */
const FILE = 0;
const TIME = 1;
const OFFSET = 2;
const ROW = 3;
const START = 4;
const FIELDS = 5;

/** Lines of one file that came together, next to one another in the file and in the page. */
export interface Run {
  /** Index of its file. */
  file: number;
  time_ns: number;
  /** Of its first byte, in the file and in the page. */
  offset: number;
  start: number;
  /** How many of its bytes are in the file and in the page: one more here where a newline was put to a line that had none. */
  size: number;
  end: number;
  /** Its first row and the one after its last, in the page. */
  row: number;
  endRow: number;
}

export class Page {
  /** Undefined while given up. */
  bytes: Uint8Array | undefined = new Uint8Array(PAGE_BYTES);
  size = 0;
  rows = 0;
  /** True of what was given up and read back. */
  isBack = false;
  isReading = false;
  error = '';
  /** By row: bytes of a line that were not kept. */
  readonly more = new Map<number, number>();
  private runs: number[] | Float64Array = [];
  /** Rows whose newline is not the file's. */
  private readonly closed = new Set<number>();
  private starts: Uint32Array | undefined;

  /** `firstRow` counts over the whole log. */
  constructor(public firstRow: number) {}

  get room(): number {
    return PAGE_BYTES - this.size;
  }

  get runCount(): number {
    return this.runs.length / FIELDS;
  }

  /** Add lines of a file, newlines and all; they fit. */
  add(file: number, time_ns: number, offset: number, bytes: Uint8Array): void {
    if (!this.continues(file, time_ns, offset)) {
      (this.runs as number[]).push(file, time_ns, offset, this.rows, this.size);
    }
    this.bytes!.set(bytes, this.size);
    this.size += bytes.length;
    this.rows += countLines(bytes);
    this.starts = undefined;
  }

  /** Say of the last line that its newline was put there, and how many of its bytes were left out before. */
  close(more: number): void {
    this.closed.add(this.runCount - 1);
    if (more > 0) {
      this.more.set(this.rows - 1, more);
    }
  }

  /** No more will be added: what is not used is given back. */
  seal(): void {
    this.runs = Float64Array.from(this.runs);
    if (this.room > PAGE_BYTES / 8) {
      this.bytes = this.bytes?.slice(0, this.size);
    }
  }

  /** Say that all of it belongs to another file. */
  moveTo(file: number): void {
    for (let at = FILE; at < this.runs.length; at += FIELDS) {
      this.runs[at] = file;
    }
  }

  /** A run's file and time without the rest of it. */
  fileOf(index: number): number {
    return this.runs[index * FIELDS + FILE]!;
  }

  timeOf(index: number): number {
    return this.runs[index * FIELDS + TIME]!;
  }

  run(index: number): Run {
    const at = index * FIELDS;
    const isLast = at + FIELDS >= this.runs.length;
    const start = this.runs[at + START]!;
    const end = isLast ? this.size : this.runs[at + FIELDS + START]!;
    return {
      file: this.runs[at + FILE]!,
      time_ns: this.runs[at + TIME]!,
      offset: this.runs[at + OFFSET]!,
      start,
      end,
      size: end - start - (this.closed.has(index) ? 1 : 0),
      row: this.runs[at + ROW]!,
      endRow: isLast ? this.rows : this.runs[at + FIELDS + ROW]!
    };
  }

  /** Index of the run that holds a row of the page. */
  runOf(row: number): number {
    let low = 0;
    let high = this.runCount - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.runs[middle * FIELDS + ROW]! <= row) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  /** Where each row starts, and the end of the last. */
  lineStarts(): Uint32Array {
    if (this.starts === undefined) {
      const starts = new Uint32Array(this.rows + 1);
      let at = 0;
      for (let row = 1; row <= this.rows; row++) {
        at = this.bytes!.indexOf(NEWLINE, at) + 1;
        starts[row] = at;
      }
      this.starts = starts;
    }
    return this.starts;
  }

  /** Forget where rows start; it is found again when needed. */
  dropStarts(): void {
    this.starts = undefined;
  }

  /** A row's bytes without its newline. */
  line(row: number): Uint8Array {
    const starts = this.lineStarts();
    return this.bytes!.subarray(starts[row]!, starts[row + 1]! - 1);
  }

  private continues(file: number, time_ns: number, offset: number): boolean {
    const last = this.runCount - 1;
    if (last < 0 || this.closed.has(last)) {
      return false;
    }
    const at = last * FIELDS;
    const end = this.runs[at + OFFSET]! + this.size - this.runs[at + START]!;
    return this.runs[at + FILE] === file && end === offset && time_ns - this.runs[at + TIME]! < 5e7;
  }
}

/** A row of its own between the pages of lines. */
export interface Mark {
  kind: 'gap' | 'round';
  firstRow: number;
  rows: number;
  /** Of a gap: which bytes of which file are missing. */
  file: number;
  offset: number;
  size: number;
  time_ns: number;
  /** Of a round: its number. */
  round: number;
  /** Of a gap: what became of its reading. */
  isReading: boolean;
  error: string;
}

export function countLines(bytes: Uint8Array): number {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, at + 1)) {
    count += 1;
  }
  return count;
}
