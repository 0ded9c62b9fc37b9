/** The head of a dashboard: which run, its state, how long, where, and what can be done to it. */

import { copyFrom } from '../common/clipboard.js';
import type { Link, RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import { isFinal, type Snapshot } from '../model.js';
import type { Host } from '../source.js';
import { rankCount } from '../ranks/facts.js';
import { hostsText, isHere } from '../common/nodes.js';
import { inlineNote } from './notes.js';
import { stacksButton } from './stacks.js';
import { stopButton } from './stop.js';
import { attemptText, durationText, elapsedText, plural, stateText, visible } from '../common/text.js';
import type { View } from '../view.js';

const LINKS: Record<Link, [sign: string, text: string, title: string]> = {
  connecting: ['link', 'connecting…', 'Asking the kernel for the run'],
  live: ['', '', ''],
  deaf: [
    'warning',
    'kernel busy: to stop, use interrupt',
    'The kernel sends, but hears this page only when its cell is over: to stop, use the notebook’s interrupt button (■)'
  ],
  silent: ['link', 'reconnecting…', 'Nothing was heard from the kernel for a while; what is drawn may be old'],
  saved: ['saved', 'saved, read-only', 'Drawn from what was saved in the notebook; no kernel is asked']
};

export function headerView(data: RunData, host: Host): View {
  const chipIcon = icon('created');
  const chipText = h('span', {});
  const chip = h('span', { class: 'nbe-state-chip', role: 'status' }, chipIcon, chipText);
  const name = h('span', { class: 'nbe-name nbe-clip' });
  const elapsed = h('span', { class: 'nbe-elapsed', title: 'Time since the launch' });
  const facts = h('span', { class: 'nbe-facts' });
  const link = linkChip();
  const message = h('div', { class: 'nbe-message', role: 'status', hidden: true });
  const stop = stopButton(data, () => update());
  const stacks = stacksButton(data);
  const actions = actionButtons(data, host);
  const element = h(
    'header',
    { class: 'nbe-head' },
    h('div', { class: 'nbe-title' }, chip, name, elapsed),
    // Stop comes first: when it goes, nothing else moves to where it was.
    h('div', { class: 'nbe-actions' }, link.element, stop.button, stacks.button, ...actions.buttons),
    facts,
    message
  );

  function update(): void {
    const { snapshot } = data;
    chip.dataset.state = snapshot.state;
    setIcon(chipIcon, snapshot.state);
    setText(chipText, stateText(snapshot.state));
    const title = visible(snapshot.name || snapshot.run_id || data.about?.run_id || 'run', 200);
    setText(name, title);
    name.title = snapshot.run_id ? `run ${visible(snapshot.run_id, 200)}` : '';
    setText(elapsed, tookText(data));
    drawFacts(facts, data, host);
    link.update(data.link);
    stop.update();
    stacks.update();
    actions.update();
    setText(message, stop.message);
    message.hidden = !stop.message;
  }
  return { element, update, dispose: () => stop.dispose() };
}

/** Ticks in whole seconds; what is over is told as everywhere else. */
function tookText(data: RunData): string {
  const { created_ns, finished_ns } = data.snapshot;
  const took = finished_ns
    ? durationText((finished_ns - created_ns) / 1e9)
    : elapsedText((data.nowNs() - created_ns) / 1e9);
  return created_ns ? took : '';
}

function linkChip(): { element: HTMLElement; update(link: Link): void } {
  const sign = icon('link');
  const text = h('span', {});
  const element = h('span', { class: 'nbe-linkstate', role: 'status' }, sign, text);
  return {
    element,
    update(link) {
      const [name, words, title] = LINKS[link];
      element.hidden = !words;
      element.dataset.link = link;
      element.title = title;
      setIcon(sign, name || 'link');
      setText(text, words);
    }
  };
}

/** `Cell In[12] · 4 ranks · node7 · attempt 1 of 3`, what is known first in front; rebuilt only when its words change. */
function drawFacts(facts: HTMLElement, data: RunData, host: Host): void {
  const { snapshot, about } = data;
  const nodes = nodeCount(snapshot);
  const size = rankCount(snapshot);
  const label = about?.label ?? '';
  const words = [
    visible(label, 100),
    size ? `${plural(size, 'rank')}${nodes > 1 || (nodes && snapshot.nodes.length) ? ` on ${plural(nodes, 'node')}` : ''}` : '',
    snapshot.nodes.length ? hostsText(snapshot) : visible(snapshot.host, 100),
    attemptText(snapshot, snapshot.attempt),
    isFinal(snapshot.state) ? '' : visible(snapshot.waits_for ?? '', 200),
    inlineNote(snapshot)
  ];
  const key = words.join('\n');
  if (facts.dataset.key === key) {
    return;
  }
  facts.dataset.key = key;
  facts.replaceChildren();
  for (const [i, word] of words.entries()) {
    if (word) {
      const isLink = i === 0 && label.startsWith('Cell In') && host.openCell;
      const open = () => host.openCell?.(label, 1);
      facts.append(
        isLink
          ? h('button', { type: 'button', class: 'nbe-link', title: 'Show the cell', onclick: open }, word)
          : h('span', {}, word)
      );
    }
  }
}

/** Nodes with ranks, and those that wait for the next round. */
function nodeCount({ nodes, workers, state }: Snapshot): number {
  const here = isFinal(state) && workers.length ? [] : nodes.filter(isHere).map(node => node.node);
  return new Set([...workers.map(worker => worker.node), ...here]).size;
}

function actionButtons(data: RunData, host: Host): { buttons: HTMLElement[]; update(): void } {
  const torchrun = button(
    'terminal',
    'Copy as torchrun',
    (own, label) => void copyFrom(own, label, data.about?.torchrun ?? '')
  );
  const folder = button('folder', 'Folder', (own, label) => {
    const dir = data.about?.dir ?? '';
    host.openFolder?.(dir);
    void copyFrom(own, label, dir);
  });
  const tab = button('tab', 'Open in a tab', () => host.openTab?.(data.about?.run_id || data.snapshot.run_id));
  return {
    buttons: [tab, torchrun, folder],
    update() {
      const { about } = data;
      tab.hidden = !host.openTab;
      torchrun.hidden = !about?.torchrun;
      torchrun.title = about?.torchrun ? `Copies: ${visible(about.torchrun, 600)}` : '';
      folder.hidden = !about?.dir;
      folder.title = about?.dir
        ? `${host.openFolder ? 'Opens, and copies the path' : 'Copies the path'} of the logs’ folder: ${visible(about.dir, 600)}`
        : '';
    }
  };
}

function button(sign: string, text: string, act: (own: HTMLElement, label: HTMLElement) => void): HTMLButtonElement {
  const label = h('span', { class: 'nbe-label' }, text);
  const own = h('button', {
    type: 'button',
    class: 'nbe-button nbe-quiet',
    'aria-label': text,
    onclick: () => act(own, label)
  });
  own.append(icon(sign), label);
  return own;
}

/** How far a state is along: final states need no clock. */
export function isTicking(data: RunData): boolean {
  return data.link !== 'saved' && !isFinal(data.snapshot.state);
}
