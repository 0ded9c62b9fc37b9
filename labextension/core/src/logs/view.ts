/** The log view: controls above, and a window on all lines below. */

import type { Part, RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { isFinal } from '../model.js';
import { rankPlace } from '../common/nodes.js';
import { rankCount } from '../ranks/facts.js';
import { selectionOf } from '../common/selection.js';
import { visible } from '../common/text.js';
import type { Host } from '../source.js';
import type { View } from '../view.js';
import { Finder } from './finder.js';
import { drawLine, drawMark, LABEL_CHARS, plainText, type LineLook } from './lines.js';
import type { Shown } from './rows.js';
import { copyText, download, fileParts, lineOf, lineParts, shownParts } from './save.js';
import { LIVE_MS, type LineRow, type LogStore } from './store.js';
import { sizeText } from './text.js';
import { Toolbar, type LogOptions } from './toolbar.js';
import { Viewport } from './viewport.js';

export type LogsData = RunData & { readonly logs: LogStore };

export interface LogsView extends View {
  /** Show one rank's lines, of all ranks without one; another view was asked for them. */
  showRank(rank: number | undefined): void;
}

export function logsView(data: LogsData, host: Host): LogsView {
  return new ShownLogs(data, host);
}

const MAX_COPIED_LINES = 100_000;
const BUSY_DRAW_MS = 150;
const NOTHING_YET = 'No rank has written anything yet.';

class ShownLogs implements LogsView {
  readonly element: HTMLElement;
  private readonly store: LogStore;
  private readonly toolbar: Toolbar;
  private readonly viewport: Viewport;
  private readonly finder: Finder;
  private readonly empty = h('div', { class: 'nbe-log-empty' }, NOTHING_YET);
  /** Row of the current hit, and the rows that are selected. */
  private current = -1;
  private selected: [number, number] | undefined;
  private leftAt = 0;
  private notice = '';
  private liveTimer: ReturnType<typeof setTimeout> | undefined;
  private frame = 0;
  private drawnMs = 0;
  private readonly unselect: () => void;

  constructor(
    private readonly data: LogsData,
    private readonly host: Host
  ) {
    this.store = data.logs;
    this.toolbar = new Toolbar({
      changed: options => this.setOptions(options),
      step: direction => this.step(direction),
      follow: () => this.viewport.follow(!this.viewport.isFollowing),
      copy: () => void copyText(this.copied()),
      save: file => void this.save(file)
    });
    this.viewport = new Viewport(
      {
        count: () => this.finder.count,
        key: index => this.key(index),
        draw: index => this.draw(index),
        onFollow: () => this.followed()
      },
      'Log lines'
    );
    this.finder = new Finder(this.store, this.toolbar.options, () => this.schedule());
    this.element = h(
      'section',
      { class: 'nbe-logs', 'aria-label': 'Logs' },
      this.toolbar.element,
      this.viewport.element
    );
    this.viewport.element.dataset['lmSuppressShortcuts'] = 'true';
    this.toolbar.search.dataset['lmSuppressShortcuts'] = 'true';
    this.viewport.element.append(this.empty);
    this.element.addEventListener('keydown', event => this.pressed(event));
    this.viewport.element.addEventListener('click', event => this.clicked(event));
    this.viewport.element.addEventListener('copy', event => this.onCopy(event));
    const selection = selectionOf(host);
    this.unselect = selection.onChange(rank => this.showRank(rank));
    if (selection.rank !== undefined) {
      this.showRank(selection.rank);
    }
    this.update();
  }

  update(changed?: ReadonlySet<Part>): void {
    if (changed !== undefined && !changed.has('logs') && !changed.has('state')) {
      return;
    }
    this.finder.work();
    const names = this.store.files.map(file => file.title);
    const count = rankCount(this.data.snapshot);
    const ranks = [...new Set([...Array(count).keys(), ...this.store.ranks])].sort((a, b) => a - b);
    const nodes = this.data.snapshot.nodes.map(({ node, host }) => [node, `node ${node} ${visible(host, 40)}`.trim()] as const);
    this.toolbar.update(ranks, names, nodes);
    const chars = ranks.length > 1 && this.toolbar.options.isFolding ? LABEL_CHARS : String(ranks.at(-1) ?? 0).length;
    this.viewport.element.style.setProperty('--nbe-log-rank-chars', String(chars));
    setText(this.empty, isFinal(this.data.snapshot.state) ? 'No rank wrote anything.' : NOTHING_YET);
    this.render();
    if (this.store.isLiveDue) {
      clearTimeout(this.liveTimer);
      this.liveTimer = setTimeout(() => this.update(), LIVE_MS);
    }
  }

  showRank(rank: number | undefined): void {
    this.toolbar.showAllNodes();
    this.toolbar.pick(rank === undefined ? undefined : new Set([rank]));
    this.viewport.follow(true);
  }

  dispose(): void {
    this.unselect();
    clearTimeout(this.liveTimer);
    cancelAnimationFrame(this.frame);
    this.finder.dispose();
    this.toolbar.dispose();
    this.viewport.dispose();
  }

  private render(): void {
    this.drawnMs = performance.now();
    this.empty.hidden = this.store.files.length > 0;
    this.showHits();
    this.toolbar.showFollow(
      this.viewport.isFollowing,
      this.viewport.isFollowing ? 0 : this.store.book.rowCount - this.leftAt
    );
    this.viewport.render();
  }

  /** Draw before the next frame, once; seldom while a search needs the time. */
  private schedule(): void {
    if (this.finder.isBusy && performance.now() - this.drawnMs < BUSY_DRAW_MS) {
      return;
    }
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.render());
  }

  private setOptions(options: LogOptions): void {
    this.finder.set(options);
    this.viewport.setWrap(options.isWrapping);
    this.render();
  }

  private followed(): void {
    this.leftAt = this.store.book.rowCount;
    this.schedule();
  }

  private showHits(): void {
    const { matcher, error, hitCount, progress, unseenRows } = this.finder;
    if (this.notice !== '' || error !== '' || matcher === undefined) {
      this.toolbar.showHits(this.notice || error, error !== '');
      return;
    }
    const count = `${hitCount.toLocaleString('en')} ${hitCount === 1 ? 'hit' : 'hits'}`;
    const unseen = unseenRows > 0 ? `, ${unseenRows.toLocaleString('en')} older lines not searched` : '';
    this.toolbar.showHits(progress < 1 ? `${count}, ${Math.floor(100 * progress)} % searched` : count + unseen);
  }

  private key(index: number): string {
    const { rows, lives } = this.finder;
    const live = lives[index - rows.count];
    if (live !== undefined) {
      return `live ${live.index} ${live.version}`;
    }
    const shown = rows.at(index);
    const row = this.store.row(shown.row, !this.finder.isBusy);
    const state =
      row.kind === 'line' ? `${row.bytes === undefined} ${row.error}` : `${row.mark.size} ${row.mark.isReading}`;
    const look = `${this.isSelected(shown)} ${shown.row === this.current} ${shown.isMember} ${shown.isUnfolded}`;
    return `${this.store.book.epoch} ${shown.row} ${shown.group?.length} ${state} ${look}`;
  }

  private draw(index: number): HTMLElement {
    const { rows, lives } = this.finder;
    const live = lives[index - rows.count];
    if (live !== undefined) {
      return this.drawShown(this.store.liveRow(live), {
        row: -1,
        group: undefined,
        isUnfolded: false,
        isMember: false
      });
    }
    const shown = rows.at(index);
    // What passes by while the list is still made is not worth reading back.
    const row = this.store.row(shown.row, !this.finder.isBusy);
    if (row.kind !== 'line') {
      return drawMark(row, () => void this.store.fill(row.mark));
    }
    return this.drawShown(row, shown);
  }

  private drawShown(row: LineRow, shown: Shown): HTMLElement {
    const { options } = this.toolbar;
    const look: LineLook = {
      number: shown.row + 1,
      hasTimes: options.hasTimes,
      pattern: this.finder.matcher?.pattern,
      group: shown.group?.map(number => this.store.row(number, false).file?.rank ?? -1),
      isUnfolded: shown.isUnfolded,
      isMember: shown.isMember,
      isSelected: this.isSelected(shown),
      isCurrent: shown.row >= 0 && shown.row === this.current,
      place: rankPlace(this.data.snapshot, { node: row.file.node, local_rank: row.file.localRank })
    };
    const toggle = (): void => {
      this.finder.rows.toggle(shown.row);
      this.viewport.follow(false);
    };
    const element = drawLine(row, look, { host: this.host, toggle, save: line => void this.saveLine(line) });
    element.dataset['row'] = String(shown.row);
    return element;
  }

  private isSelected({ row }: Shown): boolean {
    return this.selected !== undefined && row >= this.selected[0] && row <= this.selected[1];
  }

  private step(direction: 1 | -1): void {
    const [first] = this.viewport.seen();
    const { rows } = this.finder;
    const from =
      this.current >= 0 || rows.count === 0 ? this.current : rows.at(Math.min(first, rows.count - 1)).row - 1;
    const row = this.finder.step(from, direction);
    if (row !== undefined) {
      this.current = row;
      this.viewport.follow(false);
      this.viewport.reveal(rows.find(row));
      this.viewport.render();
    }
  }

  private pressed(event: KeyboardEvent): void {
    const { viewport } = this;
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) {
      return;
    }
    const keys: Record<string, () => void> = {
      '/': () => this.toolbar.search.focus(),
      Escape: () => this.clear()
    };
    if (event.target === viewport.element) {
      keys['ArrowUp'] = () => viewport.scrollRows(-1);
      keys['ArrowDown'] = () => viewport.scrollRows(1);
      keys['PageUp'] = () => viewport.scrollRows(1 - viewport.fit);
      keys['PageDown'] = () => viewport.scrollRows(viewport.fit - 1);
      keys['Home'] = () => viewport.scrollRows(-Infinity);
      keys['End'] = () => viewport.follow(true);
    }
    const act = keys[event.key];
    if (act !== undefined) {
      event.preventDefault();
      event.stopPropagation();
      act();
    }
  }

  private clear(): void {
    this.selected = undefined;
    this.current = -1;
    this.toolbar.clearSearch();
    this.viewport.render();
  }

  /** A click on a line's number selects the line, with Shift all lines up to it. */
  private clicked(event: MouseEvent): void {
    const target = event.target as HTMLElement;
    const row = Number(target.closest<HTMLElement>('.nbe-log-line')?.dataset['row'] ?? -1);
    if (target.closest('.nbe-log-number') === null || row < 0) {
      return;
    }
    const before = this.selected;
    this.selected =
      event.shiftKey && before !== undefined ? [Math.min(before[0], row), Math.max(before[1], row)] : [row, row];
    if (!event.shiftKey && before?.[0] === row && before[1] === row) {
      this.selected = undefined;
    }
    this.viewport.render();
  }

  private onCopy(event: ClipboardEvent): void {
    if (this.selected !== undefined && String(getSelection()) === '') {
      event.clipboardData?.setData('text/plain', this.copied());
      event.preventDefault();
    }
  }

  /** Text selected in the page, else the lines that are selected, else those in view. */
  private copied(): string {
    const marked = getSelection();
    if (marked !== null && String(marked) !== '' && this.viewport.element.contains(marked.anchorNode)) {
      return String(marked);
    }
    const { rows, lives } = this.finder;
    const [first, last] = this.selected === undefined ? this.viewport.seen() : this.selected.map(row => rows.find(row));
    const lines: string[] = [];
    for (let index = first!; index <= Math.min(last!, first! + MAX_COPIED_LINES, this.finder.count - 1); index++) {
      const live = lives[index - rows.count];
      lines.push(live === undefined ? this.lineAt(index) : plainText(this.store.liveRow(live)));
    }
    return lines.join('\n');
  }

  private lineAt(index: number): string {
    const { row, group, isUnfolded } = this.finder.rows.at(index);
    return lineOf(this.store, row, this.toolbar.options.hasTimes, isUnfolded ? undefined : group);
  }

  private async save(index: number): Promise<void> {
    const name = this.data.about?.run_id ?? 'run';
    const told = (bytes: number): void => this.tell(`${sizeText(bytes)} read …`);
    await this.saving(async () => {
      if (index < 0) {
        const hasTimes = this.toolbar.options.hasTimes;
        download(`${name}.log`, await shownParts(this.store, this.finder.rows, hasTimes, told));
      } else {
        const file = this.store.files[index]!;
        const parts = await fileParts(this.data, this.store, file, told);
        download(`${name}-round${file.round}-rank${file.rank}-${file.stream}.log`, parts);
      }
    });
  }

  private async saveLine(row: LineRow): Promise<void> {
    const name = `${this.data.about?.run_id ?? 'run'}-rank${row.file.rank}-line-at-${row.offset}.log`;
    await this.saving(async () => download(name, await lineParts(this.data, row)));
  }

  private async saving(act: () => Promise<void>): Promise<void> {
    try {
      await act();
      this.tell('');
    } catch (error) {
      this.tell(`not saved: ${(error as Error).message}`);
    }
  }

  private tell(notice: string): void {
    this.notice = notice;
    this.schedule();
  }
}
