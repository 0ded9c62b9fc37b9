/** The tabs below the ranks: views are made when first opened, and only the open one is drawn. */

import { ALL_PARTS, type RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { icon } from '../common/icons.js';
import type { Tab } from '../parts.js';
import type { Selection, Shared } from '../common/selection.js';
import type { View } from '../view.js';

interface Entry {
  readonly tab: Tab;
  readonly button: HTMLButtonElement;
  readonly count: HTMLElement;
  readonly panel: HTMLElement;
  view: View | undefined;
}

let made = 0;

export function tabsView(data: RunData, host: Shared, tabs: readonly Tab[]): View {
  made += 1;
  const prefix = `nbe-${made}`;
  const entries = tabs.map(tab => makeEntry(tab, prefix, () => open(tab.id, true)));
  const list = h(
    'div',
    { class: 'nbe-tabs', role: 'tablist', 'aria-label': 'Details of the run', onkeydown: onKey },
    ...entries.map(e => e.button)
  );
  const chosen = selectedRank(host.selection);
  const bar = h('div', { class: 'nbe-tab-bar' }, list, chosen.element);
  const element = h('section', { class: 'nbe-details' }, bar, ...entries.map(e => e.panel));
  let opened = '';
  let isChosen = false;

  function open(id: string, isClick = false): void {
    const entry = entries.find(e => e.tab.id === id) ?? entries[0];
    if (!entry) {
      return;
    }
    if (isClick) {
      isChosen = true;
      remember(runId(data), entry.tab.id);
    }
    opened = entry.tab.id;
    entries.forEach(e => setOpen(e, e === entry));
    if (!entry.view) {
      entry.view = entry.tab.view(data, host);
      entry.panel.append(entry.view.element);
    }
    entry.view.update(ALL_PARTS);
  }

  function onKey(event: KeyboardEvent): void {
    const next = neighbour(entries, opened, event.key);
    if (next) {
      event.preventDefault();
      open(next.tab.id, true);
      next.button.focus();
    }
  }

  return {
    element,
    update(changed) {
      if (!opened || (!isChosen && changed.has('state'))) {
        const wanted = recall(runId(data)) ?? opened;
        isChosen = runId(data) !== '';
        if (wanted !== opened || !opened) {
          open(wanted);
        }
      }
      for (const e of entries) {
        if (e.tab.parts.some(part => changed.has(part))) {
          setText(e.count, e.tab.count(data));
        }
      }
      entries.find(e => e.tab.id === opened)?.view?.update(changed);
    },
    dispose() {
      chosen.dispose();
      entries.forEach(e => e.view?.dispose());
    }
  };
}

/** Which rank the tabs show, and a way back to all; its place is kept. */
function selectedRank(selection: Selection): { element: HTMLElement; dispose(): void } {
  const text = h('span', {});
  const element = h('button', {
    type: 'button',
    class: 'nbe-button nbe-quiet nbe-selected-rank nbe-none',
    title: 'Show all ranks again',
    onclick: () => selection.select(undefined)
  });
  element.append(text, icon('close'));
  const dispose = selection.onChange(rank => {
    setText(text, rank === undefined ? '' : `rank ${rank}`);
    element.classList.toggle('nbe-none', rank === undefined);
  });
  return { element, dispose };
}

function setOpen({ button, panel }: Entry, isOpen: boolean): void {
  button.setAttribute('aria-selected', String(isOpen));
  button.tabIndex = isOpen ? 0 : -1;
  panel.hidden = !isOpen;
}

/** The tab that a key leads to from the open one. */
function neighbour(entries: readonly Entry[], opened: string, key: string): Entry | undefined {
  const at = entries.findIndex(e => e.tab.id === opened);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: entries.length - 1 }[key];
  return to === undefined ? undefined : entries[(to + entries.length) % entries.length];
}

function makeEntry(tab: Tab, prefix: string, onClick: () => void): Entry {
  const count = h('span', { class: 'nbe-count' });
  const button = h(
    'button',
    {
      type: 'button',
      class: 'nbe-tab',
      role: 'tab',
      id: `${prefix}-tab-${tab.id}`,
      'aria-controls': `${prefix}-${tab.id}`,
      onclick: onClick
    },
    tab.title,
    count
  );
  const panel = h('div', {
    class: 'nbe-panel',
    role: 'tabpanel',
    id: `${prefix}-${tab.id}`,
    'data-tab': tab.id,
    'aria-labelledby': button.id,
    hidden: true
  });
  return { tab, button, count, panel, view: undefined };
}

function runId(data: RunData): string {
  return data.snapshot.run_id || data.about?.run_id || '';
}

function remember(run: string, id: string): void {
  try {
    sessionStorage.setItem(`nb_elastic.tab.${run}`, id);
  } catch {
    // Storage may be forbidden: the tab is then forgotten with the view.
  }
}

function recall(run: string): string | undefined {
  try {
    return sessionStorage.getItem(`nb_elastic.tab.${run}`) ?? undefined;
  } catch {
    return undefined;
  }
}
