/** Why a run failed, was stopped or got lost: the root cause first, then what followed, then earlier rounds. */

import { copyFrom } from '../common/clipboard.js';
import type { RunData } from '../data.js';
import { lostNodeOf } from '../common/nodes.js';
import { h, setText } from '../dom.js';
import { icon } from '../common/icons.js';
import type { Failure, Snapshot } from '../model.js';
import { earlierText, lastWords, otherText, reportText, rootTitle, verdictOf } from './report.js';
import { selectionOf, type Selection } from '../common/selection.js';
import type { Host } from '../source.js';
import { durationText, exitText, failureText, firstLine, plural, ranksText, stateText, visible, waysText } from '../common/text.js';
import { ticked } from '../common/ticked.js';
import { tracebackElement } from './traceback.js';
import type { View } from '../view.js';

const TAIL_LINES = 10;
const OPEN_OTHERS = 4;
const OPEN_REASONS = 4;

export function failureView(data: RunData, host: Host & { selection?: Selection }): View {
  const selection = selectionOf(host);
  const element = h('div', { class: 'nbe-ends' });
  let drawn = '';
  let tail: HTMLElement | undefined;

  function rebuild(): void {
    const { snapshot } = data;
    const key = keyOf(data);
    if (key === drawn) {
      return;
    }
    drawn = key;
    tail = undefined;
    const root = snapshot.failures[0];
    const cards: HTMLElement[] = [];
    if (root) {
      tail = h('pre', { class: 'nbe-pre nbe-tail' });
      cards.push(failureCard(data, host, root, tail, selection));
    } else if (['failed', 'stopped', 'lost'].includes(snapshot.state)) {
      cards.push(endCard(data));
    } else if (earlierText(snapshot).length) {
      cards.push(h('div', { class: 'nbe-card nbe-quiet-card' }, earlierElement(snapshot)));
    }
    element.replaceChildren(...cards);
  }

  return {
    element,
    update(changed) {
      if (changed.has('state') || changed.has('about')) {
        rebuild();
      }
      const root = data.snapshot.failures[0];
      if (tail && root && (changed.has('logs') || !tail.textContent)) {
        const lines = lastWords(data, root, TAIL_LINES);
        setText(tail, lines.join('\n'));
        tail.parentElement!.hidden = !lines.length;
      }
    },
    dispose() {}
  };
}

/** All that a card shows but its log lines: drawn anew only when that changes, so that what a reader unfolded stays. */
function keyOf({ snapshot, about }: RunData): string {
  const { state, text, stop_by, failures, rounds, attempt, category, reasons, nodes } = snapshot;
  const isTold = failures.length || state === 'stopped';
  const states = isTold ? snapshot.workers.map(worker => [worker.state, worker.how]) : [];
  const verdict = [category, reasons, failures.length ? nodes.map(node => [node.state, node.text]) : []];
  return JSON.stringify([state, text, stop_by, failures, verdict, rounds.length, attempt, states, about?.label, about?.dir]);
}

function failureCard(data: RunData, host: Host, root: Failure, tail: HTMLElement, selection: Selection): HTMLElement {
  const { snapshot } = data;
  const lost = lostNodeOf(snapshot, root);
  const isOther = Boolean((root.followed || lost) && snapshot.text);
  const exit = exitText(root);
  const pick = h(
    'button',
    { type: 'button', class: 'nbe-link', onclick: () => selection.select(root.rank) },
    `Show rank ${root.rank}`
  );
  return h(
    'section',
    { class: 'nbe-card nbe-failure', role: 'alert', 'aria-label': 'Failure' },
    h(
      'div',
      { class: 'nbe-card-head' },
      cardTitle('failed', rootTitle(snapshot, root)),
      categoryChip(verdictOf(snapshot, root)[0]),
      pick,
      copyButton(data)
    ),
    isOther ? h('div', { class: 'nbe-error' }, firstLine(snapshot.text, 1000)) : null,
    lost ? null : h('div', { class: 'nbe-error' }, ...errorWords(root)),
    lost && !isOther ? h('div', { class: 'nbe-error' }, firstLine(lost.text, 1000)) : null,
    exit && !isTold(root)
      ? h('div', { class: 'nbe-muted' }, `The process ended: ${exit} (pid ${root.pid}).`)
      : null,
    reasonsElement(verdictOf(snapshot, root)[1]),
    root.hint ? h('div', { class: 'nbe-hint' }, h('strong', {}, 'Hint: '), ticked(root.hint, 3000)) : null,
    tracebackElement(root, data.about, host),
    h(
      'div',
      { class: 'nbe-tail-frame', hidden: true },
      h('div', { class: 'nbe-subtitle' }, `Last lines of rank ${root.rank}`),
      tail
    ),
    othersElement(snapshot),
    earlierElement(snapshot)
  );
}

/** What kind of failure it was, in a word or four. */
function categoryChip(category: string): HTMLElement | null {
  const text = category === 'unknown' ? 'cause unknown' : visible(category, 80);
  return category ? h('span', { class: 'nbe-category', title: 'What kind of failure this is' }, text) : null;
}

/** The evidence, a line each. */
function reasonsElement(reasons: readonly string[]): HTMLElement | null {
  if (!reasons.length) {
    return null;
  }
  const lines = reasons.map(reason => h('li', {}, ticked(reason, 2000)));
  const folded = lines.splice(OPEN_REASONS);
  return h(
    'div',
    { class: 'nbe-reasons' },
    h('ul', { 'aria-label': 'Reasons' }, ...lines),
    folded.length ? fold(plural(folded.length, 'more reason'), folded) : null
  );
}

function fold(title: string, lines: HTMLElement[]): HTMLElement {
  return h('details', { class: 'nbe-folded' }, h('summary', {}, title), h('ul', {}, ...lines));
}

/** An exception ends its process with code 1, and a signal may have been named. */
function isTold(root: Failure): boolean {
  const words = failureText(root);
  return root.signal ? words.includes(root.signal) : Boolean(root.error_type && root.exit_code === 1);
}

function errorWords(root: Failure): (HTMLElement | string)[] {
  if (!root.error_type) {
    return [failureText(root)];
  }
  const message = visible(root.message.trim(), 4000);
  return [h('strong', {}, visible(root.error_type, 200)), message ? `: ${message}` : ''];
}

function otherElement(failure: Failure): HTMLElement {
  const text = otherText(failure);
  return h('li', {}, h('div', { class: 'nbe-clip', title: text }, text));
}

/** What became of the others, one line each; those that only followed are folded. */
function othersElement(snapshot: Snapshot): HTMLElement | null {
  const [root, ...rest] = snapshot.failures;
  const followers = rest.filter(failure => failure.followed);
  const failed = rest.filter(failure => !failure.followed).map(failure => otherElement(failure));
  const lines = restLines(snapshot);
  if (!failed.length && !lines.length && !followers.length) {
    return null;
  }
  const folded = failed.splice(OPEN_OTHERS);
  const ranks = ranksText(followers.map(failure => failure.rank));
  const name = ranks.charAt(0).toUpperCase() + ranks.slice(1);
  return h(
    'div',
    { class: 'nbe-others' },
    h('div', { class: 'nbe-subtitle' }, 'Others'),
    failed.length || lines.length ? h('ul', {}, ...failed, ...lines) : null,
    folded.length ? fold(plural(folded.length, 'more failure'), folded) : null,
    followers.length
      ? fold(`${name} only followed${root ? ` rank ${root.rank}` : ''}`, followers.map(otherElement))
      : null
  );
}

/** Ranks of which no failure is told, by what became of them. */
function restLines({ failures, workers, state }: Snapshot): HTMLElement[] {
  const known = new Set(failures.map(failure => failure.rank));
  const ways = new Map<string, number[]>();
  for (const worker of workers.filter(w => !known.has(w.rank))) {
    const how = worker.how && worker.state !== 'succeeded' ? firstLine(worker.how) : stateText(worker.state);
    const isEnded = worker.state === 'ended' && /^ended( by the agent)?$/.test(how);
    const words = !isEnded ? how : state === 'lost' ? 'nobody saw how it ended' : 'ended by the agent, because of this';
    ways.set(words, [...(ways.get(words) ?? []), worker.rank]);
  }
  return [...ways].map(([words, ranks]) => h('li', {}, `${ranksText(ranks)}: ${words}`));
}

function earlierElement(snapshot: Snapshot): HTMLElement | null {
  const lines = earlierText(snapshot);
  if (!lines.length) {
    return null;
  }
  const last = lines.slice(-3).map(line => h('li', {}, line));
  const older = lines.slice(0, -3).map(line => h('li', {}, line));
  return h(
    'div',
    { class: 'nbe-earlier' },
    h('div', { class: 'nbe-subtitle' }, 'Earlier rounds'),
    older.length ? fold(plural(older.length, 'earlier round'), older) : null,
    h('ul', {}, ...last)
  );
}

/** A run that ended without a rank's failure: stopped, lost, or failed before a rank could say why. */
function endCard(data: RunData): HTMLElement {
  const { snapshot } = data;
  const took = durationText((snapshot.finished_ns - snapshot.created_ns) / 1e9);
  const by = firstLine(snapshot.stop_by) || 'somebody';
  const titles: Record<string, string> = {
    stopped: `Stopped by ${by} after ${took}`,
    lost: 'The run is lost: its supervisor is gone',
    failed: `The run failed after ${took}`
  };
  const text =
    snapshot.state === 'stopped' && snapshot.text.trim() === `stopped by ${snapshot.stop_by}` ? '' : snapshot.text;
  const isQuiet = snapshot.state === 'stopped';
  const ways = isQuiet ? waysText(snapshot.workers) : '';
  const [category, reasons] = verdictOf(snapshot, undefined);
  return h(
    'section',
    {
      class: `nbe-card ${isQuiet ? 'nbe-stopped' : snapshot.state === 'lost' ? 'nbe-lost' : 'nbe-failure'}`,
      role: isQuiet ? 'status' : 'alert'
    },
    h(
      'div',
      { class: 'nbe-card-head' },
      cardTitle(snapshot.state, `${titles[snapshot.state] ?? ''}${ways && `: ${ways}`}`),
      categoryChip(category),
      isQuiet ? null : copyButton(data)
    ),
    text ? h('div', { class: 'nbe-pre-text' }, ticked(text, 8000)) : null,
    reasonsElement(reasons),
    isQuiet ? null : othersElement(snapshot),
    earlierElement(snapshot)
  );
}

function cardTitle(sign: string, text: string): HTMLElement {
  return h('span', { class: 'nbe-card-title' }, icon(sign), text);
}

function copyButton(data: RunData): HTMLElement {
  const label = h('span', {}, 'Copy report');
  const button = h('button', {
    type: 'button',
    class: 'nbe-button nbe-copy',
    title: 'Copies all of this as plain text, for a bug report',
    onclick: () => void copyFrom(button, label, reportText(data))
  });
  button.append(icon('copy'), label);
  return button;
}
