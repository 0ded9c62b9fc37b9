/** The log's controls: which lines, what to look for, how to show them. */

import { h, setText } from '../dom.js';
import { rankRanges } from './lines.js';
import type { Query } from './search.js';

export interface LogOptions {
  ranks: ReadonlySet<number> | undefined;
  nodes: ReadonlySet<number> | undefined;
  stdout: boolean;
  stderr: boolean;
  query: Query;
  /** Leave out lines that do not match. */
  isFiltering: boolean;
  isWrapping: boolean;
  hasTimes: boolean;
  isFolding: boolean;
}

export interface LogCommands {
  changed(options: LogOptions): void;
  /** To the next hit, or the one before. */
  step(direction: 1 | -1): void;
  follow(): void;
  copy(): void;
  /** A file's index, or -1 for all that is shown. */
  save(file: number): void;
}

/** More ranks than this are chosen from a list. */
const MAX_CHIPS = 8;
const TYPING_MS = 120;

export class Toolbar {
  readonly element: HTMLElement;
  readonly search: HTMLInputElement;
  options: LogOptions = {
    ranks: undefined,
    nodes: undefined,
    stdout: true,
    stderr: true,
    query: { text: '', isRegex: false, isCase: false },
    isFiltering: true,
    isWrapping: false,
    hasTimes: false,
    isFolding: true
  };
  private readonly hits = h('span', { class: 'nbe-log-hits', role: 'status' });
  private readonly ranks = h('span', { class: 'nbe-log-ranks', role: 'group', 'aria-label': 'Ranks' });
  private readonly nodes = h('select', { class: 'nbe-log-node', 'aria-label': 'Node', hidden: true });
  private readonly saves = h('select', { class: 'nbe-log-save', 'aria-label': 'Download' });
  /** Shown from when somebody is about to look for a text until that is cleared. */
  private readonly queryTools: HTMLElement;
  private readonly followButton: HTMLButtonElement;
  private known = '';
  private knownNodes = '';
  private knownFiles = -1;
  private typing: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly commands: LogCommands) {
    const search = {
      type: 'search',
      placeholder: 'Filter  /',
      'aria-label': 'Filter lines',
      spellcheck: 'false',
      class: 'nbe-log-search'
    };
    this.search = h('input', {
      ...search,
      onfocus: () => (this.queryTools.hidden = false),
      oninput: () => this.typed(),
      onkeydown: (event: KeyboardEvent) => this.pressed(event)
    });
    this.followButton = this.button('Follow', 'Follow the end of the log', () => commands.follow());
    this.queryTools = h('span', { hidden: true }, this.queryToggles(), this.stepButtons());
    this.nodes.addEventListener('change', () =>
      this.set({ nodes: this.nodes.value === '' ? undefined : new Set([Number(this.nodes.value)]) })
    );
    this.saves.addEventListener('change', () => this.save());
    this.element = h(
      'div',
      { class: 'nbe-log-tools', role: 'toolbar', 'aria-label': 'Log' },
      this.nodes,
      this.ranks,
      h('span', { class: 'nbe-log-set' }, this.streamToggle('stdout'), this.streamToggle('stderr')),
      h('span', { class: 'nbe-log-set nbe-log-find' }, this.search, this.queryTools, this.hits),
      h('span', { class: 'nbe-log-set nbe-log-right' }, this.lookToggles(), this.saves, this.followButton)
    );
    this.update([], []);
  }

  /** Tell of the ranks, files and nodes that there are. */
  update(ranks: readonly number[], files: readonly string[], nodes: readonly (readonly [index: number, name: string])[] = []): void {
    if (this.knownNodes !== nodes.join()) {
      this.knownNodes = nodes.join();
      const chosen = this.nodes.value;
      const options = nodes.map(([index, name]) => h('option', { value: index }, name));
      this.nodes.replaceChildren(h('option', { value: '' }, 'all nodes'), ...options);
      this.nodes.value = chosen;
      this.nodes.hidden = nodes.length < 2;
    }
    if (this.known !== ranks.join()) {
      this.known = ranks.join();
      this.drawRanks(ranks);
    }
    if (this.knownFiles !== files.length) {
      this.knownFiles = files.length;
      const option = (value: string, text: string): HTMLElement => h('option', { value }, text);
      const options = files.map((text, index) => option(`${index}`, text));
      this.saves.replaceChildren(option('', 'Download'), option('-1', 'lines as shown'), ...options);
    }
  }

  showHits(text: string, isError = false): void {
    setText(this.hits, text);
    this.hits.classList.toggle('nbe-is-bad', isError);
  }

  showFollow(isFollowing: boolean, newRows: number): void {
    this.followButton.setAttribute('aria-pressed', String(isFollowing));
    setText(this.followButton, newRows > 0 ? `Follow +${newRows.toLocaleString('en')}` : 'Follow');
  }

  clearSearch(): void {
    this.search.value = '';
    this.queryTools.hidden = true;
    this.ask();
  }

  dispose(): void {
    clearTimeout(this.typing);
  }

  private set(change: Partial<LogOptions>): void {
    this.options = { ...this.options, ...change };
    this.commands.changed(this.options);
  }

  private typed(): void {
    this.queryTools.hidden = false;
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.ask(), TYPING_MS);
  }

  /** Look for what was typed, now. */
  private ask(): void {
    clearTimeout(this.typing);
    if (this.options.query.text !== this.search.value) {
      this.set({ query: { ...this.options.query, text: this.search.value } });
    }
  }

  private pressed(event: KeyboardEvent): void {
    if (event.key === 'Enter') {
      this.ask();
      this.commands.step(event.shiftKey ? -1 : 1);
    } else if (event.key === 'Escape') {
      this.clearSearch();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  private save(): void {
    const file = Number(this.saves.value);
    this.saves.value = '';
    this.commands.save(file);
  }

  private queryToggles(): HTMLElement {
    const set = (change: Partial<Query>): void => this.set({ query: { ...this.options.query, ...change } });
    return h(
      'span',
      {},
      this.toggle('Aa', 'Match case', false, isCase => set({ isCase })),
      this.toggle('.*', 'Regular expression', false, isRegex => set({ isRegex })),
      this.toggle('Only hits', 'Leave out lines that do not match', true, isFiltering => this.set({ isFiltering }))
    );
  }

  private stepButtons(): HTMLElement {
    const previous = this.button('↑', 'Previous hit (Shift+Enter)', () => this.commands.step(-1));
    const next = this.button('↓', 'Next hit (Enter)', () => this.commands.step(1));
    return h('span', {}, previous, next);
  }

  private lookToggles(): HTMLElement {
    return h(
      'span',
      {},
      this.toggle('Fold', 'Fold equal lines of several ranks', true, isFolding => this.set({ isFolding })),
      this.toggle('Wrap', 'Wrap long lines', false, isWrapping => this.set({ isWrapping })),
      this.toggle('Times', 'Show when lines were written', false, hasTimes => this.set({ hasTimes })),
      this.button('Copy', 'Copy the selected lines, or those in view', () => this.commands.copy())
    );
  }

  private streamToggle(stream: 'stdout' | 'stderr'): HTMLElement {
    return this.toggle(stream, `Show ${stream}`, true, isOn => this.set({ [stream]: isOn }));
  }

  private drawRanks(ranks: readonly number[]): void {
    if (ranks.length > MAX_CHIPS) {
      const option = (value: string, text: string): HTMLElement => h('option', { value }, text);
      const all = option('', `all ${ranks.length} ranks`);
      const select = h(
        'select',
        { 'aria-label': 'Rank' },
        all,
        ...ranks.map(rank => option(`${rank}`, `rank ${rank}`))
      );
      select.addEventListener('change', () =>
        this.pick(select.value === '' ? undefined : new Set([Number(select.value)]))
      );
      this.ranks.replaceChildren(select);
      return;
    }
    const chips = ranks.map(rank => {
      const style = `--nbe-chip: var(--nbe-rank-${rank % 8})`;
      const title = `Only rank ${rank}; with Ctrl or Shift, this one too`;
      const attributes = {
        class: 'nbe-log-chip',
        type: 'button',
        style,
        title,
        'aria-label': `Rank ${rank}`,
        'data-rank': rank
      };
      return h('button', { ...attributes, onclick: (event: MouseEvent) => this.chip(rank, event) }, `${rank}`);
    });
    this.ranks.replaceChildren(...chips);
    this.markChips();
  }

  private chip(rank: number, event: MouseEvent): void {
    const before = this.options.ranks;
    let ranks = new Set([rank]);
    if (event.ctrlKey || event.metaKey || event.shiftKey) {
      ranks = new Set(before ?? []);
      if (!ranks.delete(rank)) {
        ranks.add(rank);
      }
    } else if (before?.size === 1 && before.has(rank)) {
      ranks.clear();
    }
    this.pick(ranks.size === 0 ? undefined : ranks);
  }

  /** Show all nodes: another view asked for a rank, wherever it was. */
  showAllNodes(): void {
    this.nodes.value = '';
    this.options = { ...this.options, nodes: undefined };
  }

  /** Choose ranks, undefined for all. */
  pick(ranks: ReadonlySet<number> | undefined): void {
    this.set({ ranks });
    this.markChips();
    const select = this.ranks.querySelector('select');
    if (select !== null) {
      select.value = ranks === undefined ? '' : String([...ranks][0]);
    }
    this.ranks.title = ranks === undefined ? 'All ranks' : `Ranks ${rankRanges([...ranks])}`;
  }

  private markChips(): void {
    for (const chip of this.ranks.querySelectorAll<HTMLElement>('.nbe-log-chip')) {
      const isOn = this.options.ranks === undefined || this.options.ranks.has(Number(chip.dataset['rank']));
      chip.setAttribute('aria-pressed', String(isOn));
    }
  }

  private button(text: string, title: string, click: () => void): HTMLButtonElement {
    return h('button', { type: 'button', class: 'nbe-log-button', title, onclick: click }, text);
  }

  private toggle(text: string, title: string, isOn: boolean, turn: (isOn: boolean) => void): HTMLButtonElement {
    const button = this.button(text, title, () => {
      const isNow = button.getAttribute('aria-pressed') !== 'true';
      button.setAttribute('aria-pressed', String(isNow));
      turn(isNow);
    });
    button.setAttribute('aria-pressed', String(isOn));
    return button;
  }
}
