/** One row of the list of runs. */

import { h, isFinal, setText, type RunRow, type RunState } from '@nb-elastic/core';

/** A sign beside the word: colour alone tells nothing to some. */
const SIGNS: Record<RunState, string> = {
  created: '○',
  starting: '◔',
  running: '▶',
  restarting: '↻',
  stopping: '◌',
  succeeded: '✓',
  failed: '✕',
  stopped: '■',
  lost: '?'
};

export interface RowActions {
  open(row: RunRow): void;
  stop(row: RunRow): void;
}

export class RowView {
  readonly element: HTMLElement;
  private readonly _state = h('span', { class: 'nbe-lab-chip' });
  private readonly _name = h('button', { class: 'nbe-lab-name', title: 'Open in a tab' });
  private readonly _facts = h('span', { class: 'nbe-lab-facts' });
  private readonly _stop = h(
    'button',
    {
      class: 'nbe-lab-stop',
      title: 'Stop: sends KeyboardInterrupt (SIGINT) to all ranks, then SIGTERM, then SIGKILL'
    },
    'Stop'
  );
  private _row: RunRow | undefined;

  constructor(actions: RowActions) {
    this._name.addEventListener('click', () => this._row && actions.open(this._row));
    this._stop.addEventListener('click', () => {
      if (this._row) {
        this._stop.disabled = true;
        setText(this._stop, 'Stopping');
        actions.stop(this._row);
      }
    });
    this.element = h('li', { class: 'nbe-lab-row' }, this._state, this._name, this._stop, this._facts);
  }

  update(row: RunRow, now_ms: number): void {
    this._row = row;
    // Ids begin alike: a run without a name goes by what was launched.
    const name = row.name || entryOf(row) || row.run_id;
    this.element.dataset['run'] = row.run_id;
    this._state.dataset['state'] = row.state;
    setText(this._state, `${SIGNS[row.state] ?? '?'} ${row.state}`);
    setText(this._name, name);
    this._name.setAttribute('aria-label', `Open run ${name}`);
    setText(this._facts, factsOf(row, now_ms));
    this._facts.title = `${row.run_id}\n${row.host}\n${row.dir}`;
    this._stop.setAttribute('aria-label', `Stop run ${name}`);
    this._stop.hidden = !row.can_stop || isFinal(row.state);
  }
}

function factsOf(row: RunRow, now_ms: number): string {
  const ranks = row.world_size ? `${row.world_size} rank${row.world_size === 1 ? '' : 's'}` : '';
  const nodes = row.nodes ? ` on ${row.nodes} node${row.nodes === 1 ? '' : 's'}` : '';
  const since = `${ageText(now_ms - row.created_ns / 1e6)} ago`;
  const entry = row.name ? entryOf(row) : '';
  return [entry, ranks && ranks + nodes, since, row.is_detached ? 'detached' : ''].filter(Boolean).join(' · ');
}

function entryOf(row: RunRow): string {
  return row.entry.replace(/^cell (?=Cell In)/, '');
}

export function ageText(age_ms: number): string {
  const age_s = Math.max(0, Math.floor(age_ms / 1000));
  const units: [number, string][] = [[86_400, 'd'], [3600, 'h'], [60, 'min']];
  for (const [size_s, unit] of units) {
    if (age_s >= size_s) {
      return `${Math.floor(age_s / size_s)} ${unit}`;
    }
  }
  return `${age_s} s`;
}

/** True if every word stands somewhere in what the row shows. */
export function matches(row: RunRow, filter: string): boolean {
  const text = [row.run_id, row.name, row.state, row.entry, row.host].join(' ').toLowerCase();
  return filter.toLowerCase().split(/\s+/).every(word => text.includes(word));
}
