/** Goes through the log in slices of time and tells which rows are wanted; what comes later is gone through later. */

import type { LogFile } from './file.js';
import { Page } from './page.js';
import type { Matcher } from './search.js';
import type { LogStore } from './store.js';

/** Which lines are shown. */
export interface Selection {
  /** Undefined for all. */
  ranks: ReadonlySet<number> | undefined;
  /** Undefined for all; a rank may be on another node in each round. */
  nodes?: ReadonlySet<number> | undefined;
  stdout: boolean;
  stderr: boolean;
}

export const ALL: Selection = { ranks: undefined, stdout: true, stderr: true };

/** Gets rows with their page and the index of their run there; a mark has none. */
export type Found = (row: number, page: Page | undefined, run: number) => void;

export function isSelected(file: LogFile, { ranks, nodes, stdout, stderr }: Selection): boolean {
  const isOn = (ranks === undefined || ranks.has(file.rank)) && (nodes === undefined || nodes.has(file.node));
  return isOn && (file.stream === 'stdout' ? stdout : stderr);
}

export class Scan {
  /** Rows of pages that were not in memory, where text could not be looked for. */
  unseenRows = 0;
  private part = 0;
  private row = 0;
  private selected: boolean[] = [];

  constructor(
    private readonly store: LogStore,
    private readonly selection: Selection,
    private readonly matcher: Matcher | undefined,
    private readonly found: Found
  ) {}

  /** Part of the log that was gone through, 0 to 1. */
  get progress(): number {
    const { parts, rowCount } = this.store.book;
    return rowCount === 0 ? 1 : ((parts[this.part]?.firstRow ?? rowCount) + this.row) / rowCount;
  }

  /** Go on until `deadlineMs` of `performance.now()`; true when it is through for now. */
  advance(deadlineMs: number): boolean {
    const { parts } = this.store.book;
    while (this.part < parts.length) {
      const part = parts[this.part]!;
      if (this.row < part.rows) {
        if (part instanceof Page) {
          this.page(part, this.row);
        } else if (this.matcher === undefined && (part.kind === 'round' || this.isWanted(part.file))) {
          this.found(part.firstRow, undefined, -1);
        }
        this.row = part.rows;
      }
      if (this.part === parts.length - 1) {
        return true;
      }
      this.part += 1;
      this.row = 0;
      if (performance.now() >= deadlineMs) {
        return false;
      }
    }
    return true;
  }

  private isWanted(file: number): boolean {
    return (this.selected[file] ??= isSelected(this.store.files[file]!, this.selection));
  }

  private page(page: Page, fromRow: number): void {
    let index = page.runOf(fromRow);
    while (index < page.runCount) {
      // Neighbours that are wanted go together: a search over many short runs costs by run.
      const first = page.run(index);
      let last = first;
      const isWanted = this.isWanted(first.file);
      for (index += 1; index < page.runCount; index++) {
        const next = page.run(index);
        if (this.isWanted(next.file) !== isWanted) {
          break;
        }
        last = next;
      }
      if (isWanted) {
        this.rows(page, Math.max(first.row, fromRow), last.endRow, last.end);
      }
    }
  }

  private rows(page: Page, row: number, endRow: number, end: number): void {
    if (this.matcher === undefined) {
      this.each(page, row, endRow);
    } else if (page.bytes === undefined) {
      this.unseenRows += endRow - row;
    } else {
      const start = row === 0 ? 0 : this.store.book.startsOf(page)[row]!;
      this.matcher.find(page.bytes, start, end, line => {
        this.found(page.firstRow + row + line, page, page.runOf(row + line));
      });
    }
  }

  private each(page: Page, row: number, endRow: number): void {
    for (let index = page.runOf(row); row < endRow; index++) {
      const run = page.run(index);
      for (; row < run.endRow; row++) {
        this.found(page.firstRow + row, page, index);
      }
    }
  }
}
