/** The rows that are shown: the log's own, or those that a filter left, with equal lines of several ranks folded into one. */

import { NumberList } from './list.js';
import type { Page } from './page.js';
import { Scan, type Selection } from './scan.js';
import type { Matcher } from './search.js';
import type { LogStore } from './store.js';

/** A row of the list: of a folded group its first line, below it once unfolded each of its lines. */
export interface Shown {
  row: number;
  /** All rows of the group, if it is one and this is its head. */
  group: number[] | undefined;
  isUnfolded: boolean;
  /** True of a line below the head of its group. */
  isMember: boolean;
}

/** How far back equal lines are looked for, in groups and in time. */
const WINDOW = 256;
const WINDOW_NS = 10e9;
const NONE = 0;

export class Rows {
  /** Lines in it, those of folded groups, too. */
  lines = 0;
  private readonly scan: Scan;
  private readonly isAll: boolean;
  private readonly heads = new NumberList();
  /** By group: the entry of its latest member, in `members` and `nexts`; no longer than the last group that has any. */
  private readonly chains = new NumberList();
  private readonly members = new NumberList();
  private readonly nexts = new NumberList();
  /** Groups that are unfolded, in order, and how many rows each adds. */
  private unfolded: { group: number; rows: number }[] = [];
  private readonly open = new Map<number, number>();
  private readonly openKeys: number[] = new Array<number>(WINDOW).fill(-1);
  private readonly openTimes: number[] = new Array<number>(WINDOW).fill(0);
  private readonly lastGroups: number[] = [];

  constructor(
    private readonly store: LogStore,
    selection: Selection,
    matcher: Matcher | undefined,
    private readonly isFolding: boolean
  ) {
    this.isAll = !selection.ranks && !selection.nodes && selection.stdout && selection.stderr && !matcher && !isFolding;
    this.scan = new Scan(store, selection, matcher, (row, page, run) => this.add(row, page, run));
    this.members.push(0);
    this.nexts.push(0);
  }

  get count(): number {
    const added = this.unfolded.reduce((sum, { rows }) => sum + rows, 0);
    return (this.isAll ? this.store.book.rowCount : this.heads.length) + added;
  }

  get progress(): number {
    return this.isAll ? 1 : this.scan.progress;
  }

  get unseenRows(): number {
    return this.scan.unseenRows;
  }

  /** Take in what is new, until `deadlineMs` of `performance.now()`; true when nothing is left. */
  advance(deadlineMs: number): boolean {
    const isThrough = this.isAll || this.scan.advance(deadlineMs);
    this.unfolded.forEach(each => (each.rows = this.rowsOf(each.group).length));
    return isThrough;
  }

  at(index: number): Shown {
    if (this.isAll) {
      return { row: index, group: undefined, isUnfolded: false, isMember: false };
    }
    let added = 0;
    for (const { group, rows } of this.unfolded) {
      if (index <= group + added) {
        break;
      }
      if (index <= group + added + rows) {
        const row = this.rowsOf(group)[index - group - added - 1]!;
        return { row, group: undefined, isUnfolded: false, isMember: true };
      }
      added += rows;
    }
    const group = index - added;
    const isGroup = this.isFolding && this.chainOf(group) !== NONE;
    const isUnfolded = isGroup && this.unfolded.some(other => other.group === group);
    return { row: this.heads.at(group), group: isGroup ? this.rowsOf(group) : undefined, isUnfolded, isMember: false };
  }

  /** Where a row is in the list, or where the next one is. */
  find(row: number): number {
    if (this.isAll) {
      return row;
    }
    const group = this.heads.lowerBound(row);
    return group + this.unfolded.reduce((sum, other) => sum + (other.group < group ? other.rows : 0), 0);
  }

  /** Fold or unfold the group whose head is a row. */
  toggle(row: number): void {
    const group = this.heads.lowerBound(row);
    const others = this.unfolded.filter(other => other.group !== group);
    if (others.length === this.unfolded.length) {
      others.push({ group, rows: this.rowsOf(group).length });
      others.sort((a, b) => a.group - b.group);
    }
    this.unfolded = others;
  }

  private rowsOf(group: number): number[] {
    const rows: number[] = [];
    for (let entry = this.chainOf(group); entry !== NONE; entry = this.nexts.at(entry)) {
      rows.push(this.members.at(entry));
    }
    return [this.heads.at(group), ...rows.reverse()];
  }

  private add(row: number, page: Page | undefined, run: number): void {
    this.lines += 1;
    if (!this.isFolding) {
      this.heads.push(row);
      return;
    }
    if (page === undefined) {
      this.addHead(row, -1, 0);
      return;
    }
    const file = page.fileOf(run);
    if (page.bytes === undefined || this.store.files.length < 2) {
      this.addHead(row, -1, 0);
      this.lastGroups[file] = this.heads.length - 1;
      return;
    }
    const local = row - page.firstRow;
    const starts = this.store.book.startsOf(page);
    const { round, stream } = this.store.files[file]!;
    const seed = 2 * round + (stream === 'stdout' ? 0 : 1);
    const key = hashOf(page.bytes, starts[local]!, starts[local + 1]!, seed);
    const time_ns = page.timeOf(run);
    const group = this.open.get(key);
    // Lines of a file stay in order: it joins groups after its latest, and so each but once.
    const isOpen = group !== undefined && group > (this.lastGroups[file] ?? -1);
    if (isOpen && time_ns - this.openTimes[group % WINDOW]! < WINDOW_NS) {
      this.members.push(row);
      this.nexts.push(this.chainOf(group));
      while (this.chains.length <= group) {
        this.chains.push(NONE);
      }
      this.chains.set(group, this.members.length - 1);
      this.lastGroups[file] = group;
    } else {
      this.addHead(row, key, time_ns);
      this.lastGroups[file] = this.heads.length - 1;
    }
  }

  private addHead(row: number, key: number, time_ns: number): void {
    const group = this.heads.length;
    const slot = group % WINDOW;
    const old = this.openKeys[slot]!;
    if (this.open.get(old) === group - WINDOW) {
      this.open.delete(old);
    }
    this.openKeys[slot] = key;
    this.openTimes[slot] = time_ns;
    if (key >= 0) {
      this.open.set(key, group);
    }
    this.heads.push(row);
  }

  private chainOf(group: number): number {
    return group < this.chains.length ? this.chains.at(group) : NONE;
  }
}

/** FNV-1a of some bytes, with their number: 48 bits. */
function hashOf(bytes: Uint8Array, start: number, end: number, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let at = start; at < end; at++) {
    hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
  }
  return (hash >>> 0) * 0x10000 + ((end - start) & 0xffff);
}
