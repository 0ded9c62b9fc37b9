/** The merged log as a list of parts: pages of lines and marks between them, the oldest bytes given up when it grows too large. */

import { Page, PAGE_BYTES, type Mark } from './page.js';

export type LogPart = Page | Mark;

const MAX_STARTS = 128;

export class Book {
  /** In order; the last page grows. */
  readonly parts: LogPart[] = [];
  rowCount = 0;
  /** Counts up whenever rows get other numbers. */
  epoch = 0;
  heldBytes = 0;
  droppedBytes = 0;
  private page: Page | undefined;
  private firstHeld = 0;
  private starts: Page[] = [];
  private lastPart = 0;

  constructor(public capBytes: number) {}

  /** Put whole lines at the end, over as many pages as they need; returns how many. */
  write(file: number, time_ns: number, offset: number, bytes: Uint8Array): number {
    const before = this.rowCount;
    let start = 0;
    while (start < bytes.length) {
      const page = this.openPage();
      const left = bytes.length - start;
      const end = left <= page.room ? bytes.length : bytes.lastIndexOf(10, start + page.room - 1) + 1;
      if (end <= start) {
        this.seal();
        continue;
      }
      const rows = page.rows;
      page.add(file, time_ns, offset + start, bytes.subarray(start, end));
      this.rowCount += page.rows - rows;
      start = end;
    }
    return this.rowCount - before;
  }

  /** Say of the last line that its newline is not the file's, and how many of its bytes were left out before. */
  close(more: number): void {
    this.page!.close(more);
  }

  addMark(mark: Partial<Mark> & { kind: Mark['kind']; time_ns: number }): void {
    this.seal();
    const rest = { file: -1, offset: 0, size: 0, round: 0, isReading: false, error: '' };
    this.parts.push({ ...rest, ...mark, firstRow: this.rowCount, rows: 1 });
    this.rowCount += 1;
  }

  /** Put pages behind a mark, or in its place once nothing is missing. */
  insert(mark: Mark, pages: readonly Page[]): void {
    const at = this.parts.indexOf(mark);
    this.parts.splice(mark.size === 0 ? at : at + 1, mark.size === 0 ? 1 : 0, ...pages);
    pages.forEach(page => (this.heldBytes += page.bytes!.length));
    this.rowCount = 0;
    for (const part of this.parts) {
      part.firstRow = this.rowCount;
      this.rowCount += part.rows;
    }
    this.lastPart = 0;
    this.firstHeld = 0;
    this.epoch += 1;
  }

  seal(): void {
    if (this.page !== undefined) {
      this.page.seal();
      this.heldBytes -= PAGE_BYTES - this.page.bytes!.length;
      this.page = undefined;
    }
  }

  /** Keep within the cap: the oldest bytes go, where they were stays. */
  giveUp(): void {
    while (this.heldBytes > this.capBytes && this.firstHeld < this.parts.length) {
      const page = this.parts[this.firstHeld]!;
      if (page === this.page) {
        return;
      }
      if (page instanceof Page && page.bytes !== undefined && !page.isBack) {
        this.heldBytes -= page.bytes.length;
        this.droppedBytes += page.size;
        page.bytes = undefined;
        page.dropStarts();
      }
      this.firstHeld += 1;
    }
  }

  /** Index of the part that holds a row. */
  partOf(row: number): number {
    const at = this.parts[this.lastPart];
    if (at !== undefined && at.firstRow <= row && row < at.firstRow + at.rows) {
      return this.lastPart;
    }
    let low = 0;
    let high = this.parts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.parts[middle]!.firstRow <= row) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    this.lastPart = low;
    return low;
  }

  /** Where a page's rows start; kept for a few pages only. */
  startsOf(page: Page): Uint32Array {
    if (this.starts.at(-1) !== page) {
      this.starts = this.starts.filter(other => other !== page);
      this.starts.push(page);
      if (this.starts.length > MAX_STARTS) {
        this.starts.shift()!.dropStarts();
      }
    }
    return page.lineStarts();
  }

  private openPage(): Page {
    if (this.page === undefined) {
      this.page = new Page(this.rowCount);
      this.parts.push(this.page);
      this.heldBytes += this.page.bytes!.length;
    }
    return this.page;
  }
}
