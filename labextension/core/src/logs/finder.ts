/** What the log shows now: rows and hits for the options that were chosen, found in slices so that the page stays awake. */

import { Rows } from './rows.js';
import { isSelected, type Selection } from './scan.js';
import { isSpent } from './regex.js';
import { matcherOf, type Matcher } from './search.js';
import type { LogFile } from './file.js';
import type { LogStore } from './store.js';
import { decode } from './text.js';
import { strip } from './ansi.js';
import type { LogOptions } from './toolbar.js';

/** Work between two looks at what the reader does. */
const SLICE_MS = 10;
/** Work within a frame that has news to draw. */
const FRAME_MS = 6;
const SPENT = 'given up: a line took this expression too long';

export class Finder {
  rows: Rows;
  matcher: Matcher | undefined;
  /** What is wrong with the regular expression, or "". */
  error = '';
  lives: LogFile[] = [];
  isBusy = false;
  private hits: Rows | undefined;
  private kept: { key: string; rows: Rows };
  private selection: Selection;
  private epoch: number;
  private options: LogOptions;
  private readonly channel = new MessageChannel();

  constructor(
    private readonly store: LogStore,
    options: LogOptions,
    private readonly worked: () => void
  ) {
    this.options = options;
    this.selection = options;
    this.epoch = store.book.epoch;
    this.rows = new Rows(store, this.selection, undefined, options.isFolding);
    this.kept = { key: '', rows: this.rows };
    this.channel.port1.onmessage = () => this.slice();
  }

  dispose(): void {
    this.channel.port1.onmessage = null;
    this.channel.port1.close();
  }

  /** Begin anew with other options; what was under way is dropped. */
  set(options: LogOptions): void {
    this.options = options;
    const { ranks, nodes, stdout, stderr } = options;
    this.selection = { ranks, nodes, stdout, stderr };
    this.epoch = this.store.book.epoch;
    this.error = '';
    this.matcher = undefined;
    try {
      this.matcher = options.query.text === '' ? undefined : matcherOf(options.query);
    } catch (error) {
      this.error = (error as Error).message.replace(/^Invalid regular expression: /, '');
    }
    // One rank alone has nobody to be folded with.
    const isFolding = options.isFolding && options.ranks?.size !== 1;
    const filter = options.isFiltering ? this.matcher : undefined;
    this.rows =
      filter === undefined ? this.allRows(isFolding) : new Rows(this.store, this.selection, filter, isFolding);
    const isMarking = this.matcher !== undefined && !options.isFiltering;
    this.hits = isMarking ? new Rows(this.store, this.selection, this.matcher, false) : undefined;
    this.work();
  }

  /** Take in what is new. */
  work(): void {
    if (this.epoch !== this.store.book.epoch) {
      this.set(this.options);
      return;
    }
    this.advance(FRAME_MS);
    this.lives = this.store.live().filter(file => isSelected(file, this.selection) && this.isMatch(file));
  }

  get count(): number {
    return this.rows.count + this.lives.length;
  }

  get hitCount(): number {
    return this.matcher === undefined ? 0 : (this.hits ?? this.rows).lines;
  }

  get progress(): number {
    return Math.min(this.rows.progress, this.hits?.progress ?? 1);
  }

  get unseenRows(): number {
    return (this.hits ?? this.rows).unseenRows;
  }

  /** Index of the next hit after, or before, a row of the log; undefined where there is none. Goes round at the ends. */
  step(from: number, direction: 1 | -1): number | undefined {
    const list = this.hits ?? this.rows;
    if (this.matcher === undefined || list.count === 0) {
      return undefined;
    }
    const after = list.find(from + (direction > 0 ? 1 : 0));
    const index = direction > 0 ? after : after - 1;
    const { row } = list.at((index + list.count) % list.count);
    return row;
  }

  /** Rows without a query are kept: after a search they are there at once. */
  private allRows(isFolding: boolean): Rows {
    const { ranks, nodes, stdout, stderr } = this.selection;
    const key = `${this.epoch} ${[...(ranks ?? ['all'])].join()} ${[...(nodes ?? ['all'])].join()} ${stdout} ${stderr} ${isFolding}`;
    if (this.kept.key !== key) {
      this.kept = { key, rows: new Rows(this.store, this.selection, undefined, isFolding) };
    }
    return this.kept.rows;
  }

  private slice(): void {
    this.isBusy = false;
    this.advance(SLICE_MS);
    this.worked();
  }

  private advance(budgetMs: number): void {
    const deadlineMs = performance.now() + budgetMs;
    const isThrough = this.rows.advance(deadlineMs) && (this.hits?.advance(deadlineMs) ?? true);
    const { pattern, tester } = this.matcher ?? {};
    if ([pattern, tester].some(regex => regex && isSpent(regex))) {
      this.error = SPENT;
    }
    if (!isThrough && !this.isBusy) {
      this.isBusy = true;
      this.channel.port2.postMessage(0);
    }
  }

  private isMatch(file: LogFile): boolean {
    if (this.matcher === undefined || !this.options.isFiltering) {
      return true;
    }
    this.matcher.pattern.lastIndex = 0;
    return this.matcher.pattern.test(strip(decode(file.tail.bytes)));
  }
}
