/** The side bar: runs of the open notebooks' kernels, and recent ones of this machine. */

import { Widget } from '@lumino/widgets';
import { followTheme, h, setText, type RunRow } from '@nb-elastic/core';
import { elasticIcon } from './icon.js';
import type { Links } from './links.js';
import { matches, RowView, type RowActions } from './run_row.js';

const TICK_MS = 5000;

export class RunsPanel extends Widget {
  private readonly _filter = h('input', {
    class: 'nbe-lab-filter',
    type: 'search',
    placeholder: 'Filter by name, state, host',
    'aria-label': 'Filter runs'
  });
  private readonly _own = new Section('Open notebooks');
  private readonly _others = new Section('Recent on this machine');
  private readonly _empty = h('p', { class: 'nbe-lab-empty' });
  private readonly _rows = new Map<string, RowView>();
  private readonly _unfollow: () => void;
  private _timer = 0;

  constructor(
    private readonly _links: Links,
    private readonly _actions: RowActions
  ) {
    super();
    this.id = 'nb-elastic-runs';
    this.addClass('nbe');
    this.addClass('nbe-lab-panel');
    this._unfollow = followTheme(this.node);
    this.title.icon = elasticIcon;
    this.title.caption = 'Runs of nb_elastic';
    this._filter.addEventListener('input', () => this.refresh());
    this.node.append(h('h2', {}, 'Runs'), this._filter, this._own.element, this._others.element, this._empty);
    _links.changed.connect(() => this.refresh());
  }

  /** Costs nothing while the panel is not shown. */
  refresh(): void {
    if (!this.isVisible) {
      return;
    }
    const all = this._links.rows();
    const rows = all.filter(row => matches(row, this._filter.value));
    const kept = new Set(rows.map(row => row.run_id));
    for (const runId of this._rows.keys()) {
      if (!kept.has(runId)) {
        this._rows.delete(runId);
      }
    }
    this._own.fill(rows.filter(row => row.is_own).map(row => this._view(row)));
    this._others.fill(rows.filter(row => !row.is_own).map(row => this._view(row)));
    this._empty.hidden = rows.length > 0;
    setText(this._empty, this._emptyText(all.length));
  }

  protected override onAfterShow(): void {
    this._links.all.forEach(link => link.list());
    this._timer ||= window.setInterval(() => this.refresh(), TICK_MS);
    this.refresh();
  }

  protected override onAfterHide(): void {
    window.clearInterval(this._timer);
    this._timer = 0;
  }

  protected override onBeforeDetach(): void {
    this.onAfterHide();
  }

  override dispose(): void {
    this._unfollow();
    super.dispose();
  }

  private _view(row: RunRow): HTMLElement {
    let view = this._rows.get(row.run_id);
    if (!view) {
      view = new RowView(this._actions);
      this._rows.set(row.run_id, view);
    }
    view.update(row, Date.now());
    return view.element;
  }

  private _emptyText(count: number): string {
    if (count) {
      return 'No run matches the filter.';
    }
    if (this._links.all.some(link => link.isOpen)) {
      return 'No runs yet. Put %%elastic_launch on top of a cell and run it.';
    }
    return 'No open notebook has loaded nb_elastic. Run %load_ext nb_elastic in one.';
  }
}

class Section {
  readonly element: HTMLElement;
  private readonly _list = h('ul', {});

  constructor(title: string) {
    this.element = h('section', { hidden: true }, h('h3', {}, title), this._list);
  }

  /** Rows stay where they stand, so that focus and pointer stay with them. */
  fill(elements: HTMLElement[]): void {
    this.element.hidden = elements.length === 0;
    const wanted = new Set<Element>(elements);
    for (const child of [...this._list.children]) {
      if (!wanted.has(child)) {
        child.remove();
      }
    }
    elements.forEach((element, i) => {
      if (this._list.children[i] !== element) {
        this._list.insertBefore(element, this._list.children[i] ?? null);
      }
    });
  }
}
