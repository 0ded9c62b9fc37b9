/** The outputs tab: what ranks displayed, under the rank that made it. */

import { onThemeChange } from '../charts/theme.js';
import type { Part, RunData } from '../data.js';
import { h, setText } from '../dom.js';
import type { Output } from '../model.js';
import { cardOf, OutputCard } from './card.js';
import { selectionOf, type Selection } from '../common/selection.js';
import type { Host } from '../source.js';
import type { View } from '../view.js';

export function outputsView(data: RunData, host: Host): View {
  return new OutputsView(data, selectionOf(host));
}

class OutputsView implements View {
  readonly element: HTMLElement;
  private readonly sections = new Map<number, Section>();
  private readonly chips = h('div', { class: 'nbe-chips nbe-outputs-chips', role: 'group', 'aria-label': 'Ranks' });
  private readonly list = h('div', { class: 'nbe-outputs-list' });
  private readonly empty = emptyState();
  private readonly near: IntersectionObserver;
  private readonly unselect: () => void;
  private untheme: (() => void) | undefined;
  private ranks = '';

  constructor(
    private readonly data: RunData,
    private readonly selection: Selection
  ) {
    this.near = new IntersectionObserver(
      entries => entries.forEach(entry => entry.isIntersecting && this.draw(entry.target)),
      { rootMargin: '400px' }
    );
    this.element = h('div', { class: 'nbe-outputs' }, this.empty, this.chips, this.list);
    this.unselect = selection.onChange(() => this.filter());
    this.update(new Set<Part>(['outputs']));
  }

  update(changed: ReadonlySet<Part>): void {
    this.untheme ??= this.element.isConnected ? onThemeChange(this.element, () => this.recolour()) : undefined;
    const { outputs } = this.data;
    if (!changed.has('outputs')) {
      return;
    }
    for (const rank of outputs.ranks) {
      let section = this.sections.get(rank);
      if (!section) {
        section = new Section(rank, this.near);
        this.sections.set(rank, section);
        const next = [...this.sections.keys()].sort((a, b) => a - b).find(other => other > rank);
        this.list.insertBefore(section.element, next === undefined ? null : this.sections.get(next)!.element);
      }
      section.update(outputs.of(rank), outputs.version(rank), this.data.snapshot.started_ns);
    }
    this.filter();
  }

  dispose(): void {
    this.near.disconnect();
    this.unselect();
    this.untheme?.();
    this.sections.forEach(section => section.dispose());
  }

  private draw(element: Element): void {
    this.near.unobserve(element);
    cardOf(element)?.draw();
  }

  private recolour(): void {
    this.sections.forEach(section => section.recolour());
  }

  /** Show the selected rank alone, if it displayed anything. */
  private filter(): void {
    const full = [...this.sections.values()].filter(section => section.size > 0).map(section => section.rank);
    const chosen = full.find(rank => rank === this.selection.rank);
    this.empty.hidden = full.length > 0;
    this.sections.forEach((section, rank) => {
      section.element.hidden = !section.size || (chosen !== undefined && rank !== chosen);
    });
    full.sort((a, b) => a - b);
    const wanted = `${full.join()} ${chosen}`;
    if (wanted !== this.ranks) {
      this.ranks = wanted;
      const chips = [chip('all', chosen === undefined, undefined, () => this.selection.select(undefined))];
      chips.push(...full.map(rank => chip(String(rank), rank === chosen, rank, () => this.selection.toggle(rank))));
      this.chips.replaceChildren(...(full.length > 1 ? chips : []));
    }
  }
}

/** One rank's outputs. */
class Section {
  readonly element: HTMLElement;
  size = 0;
  private readonly title = h('span', {});
  private readonly body = h('div', { class: 'nbe-outputs-cards' });
  private readonly cards = new Map<string, OutputCard>();
  private version = -1;
  private count = 0;

  constructor(
    readonly rank: number,
    private readonly near: IntersectionObserver
  ) {
    const head = h('h3', { class: 'nbe-outputs-head' }, dot(rank), `Rank ${rank}`, this.title);
    const attributes = { class: 'nbe-outputs-rank', 'aria-label': `Outputs of rank ${rank}` };
    this.element = h('section', attributes, head, this.body);
  }

  update(outputs: readonly Output[], version: number, started_ns: number): void {
    if (version === this.version) {
      return;
    }
    this.version = version;
    this.size = outputs.length;
    setText(this.title, outputs.length === 1 ? '1 output' : `${outputs.length} outputs`);
    const kept = new Set<string>();
    let place: Element | null = this.body.firstElementChild;
    for (const output of outputs) {
      const key = freeKey(output, kept);
      kept.add(key);
      const card = this.cards.get(key) ?? this.make(key, output, started_ns);
      card.show(output);
      if (card.element === place) {
        place = place.nextElementSibling;
      } else {
        this.body.insertBefore(card.element, place);
      }
    }
    for (const [key, card] of this.cards) {
      if (!kept.has(key)) {
        this.near.unobserve(card.element);
        card.dispose();
        this.cards.delete(key);
      }
    }
  }

  recolour(): void {
    this.cards.forEach(card => card.recolour());
  }

  dispose(): void {
    this.cards.forEach(card => card.dispose());
  }

  private make(key: string, output: Output, started_ns: number): OutputCard {
    this.count += 1;
    const after_s = started_ns && output.time_ns > started_ns ? (output.time_ns - started_ns) / 1e9 : undefined;
    const when = after_s === undefined ? '' : ` after ${after_s < 10 ? after_s.toFixed(1) : Math.round(after_s)} s`;
    const card = new OutputCard(output, `rank ${this.rank} output ${this.count}`);
    card.element.title = when ? `Displayed${when}` : '';
    this.cards.set(key, card);
    this.near.observe(card.element);
    return card;
  }
}

/** What an output is known by while its contents change. */
function freeKey(output: Output, taken: ReadonlySet<string>): string {
  let key = `${output.time_ns} ${output.display_id}`;
  while (taken.has(key)) {
    key += '+';
  }
  return key;
}

function dot(rank: number): HTMLElement {
  const element = h('span', { class: 'nbe-dot', 'aria-hidden': 'true' });
  element.style.background = `var(--nbe-rank-${rank % 8})`;
  return element;
}

function chip(text: string, isPressed: boolean, rank: number | undefined, onclick: () => void): HTMLElement {
  const attributes = { type: 'button', class: 'nbe-chip', 'aria-pressed': String(isPressed), onclick };
  const title = rank === undefined ? 'Outputs of all ranks' : `Outputs of rank ${rank} alone`;
  return h('button', { ...attributes, title }, rank === undefined ? undefined : dot(rank), text);
}

function emptyState(): HTMLElement {
  return h(
    'div',
    { class: 'nbe-metrics-empty' },
    h('p', {}, 'Nothing displayed yet. Figures, tables and whatever else a rank displays appear here:'),
    h('pre', {}, h('code', {}, 'plt.show()\ndisplay(frame)'))
  );
}
