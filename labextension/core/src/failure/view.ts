/** Why a run failed, was stopped or got lost: the root cause first, then what followed, then earlier rounds. */

import { copyFrom } from '../common/clipboard.js';
import type { RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { icon } from '../common/icons.js';
import type { Failure, Snapshot } from '../model.js';
import { earlierText, lastWords, otherText, reportText, rootTitle } from './report.js';
import { selectionOf, type Selection } from '../common/selection.js';
import type { Host } from '../source.js';
import { durationText, exitText, failureText, firstLine, plural, ranksText, stateText, visible } from '../common/text.js';
import { tracebackElement } from './traceback.js';
import type { View } from '../view.js';

const TAIL_LINES = 10;
const OPEN_OTHERS = 4;

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
  const { state, text, stop_by, failures, rounds, attempt } = snapshot;
  const states = failures.length || state === 'stopped' ? snapshot.workers.map(worker => worker.state) : [];
  return JSON.stringify([state, text, stop_by, failures, rounds.length, attempt, states, about?.label, about?.dir]);
}

function failureCard(data: RunData, host: Host, root: Failure, tail: HTMLElement, selection: Selection): HTMLElement {
  const { snapshot } = data;
  const isOther = Boolean(root.followed && snapshot.text);
  const exit = exitText(root);
  const pick = h(
    'button',
    { type: 'button', class: 'nbe-link', onclick: () => selection.select(root.rank) },
    `Show rank ${root.rank}`
  );
  return h(
    'section',
    { class: 'nbe-card nbe-failure', role: 'alert', 'aria-label': 'Failure' },
    h('div', { class: 'nbe-card-head' }, cardTitle('failed', rootTitle(snapshot, root)), pick, copyButton(data)),
    isOther ? h('div', { class: 'nbe-error' }, firstLine(snapshot.text, 1000)) : null,
    h('div', { class: 'nbe-error' }, ...errorWords(root)),
    exit && !isTold(root)
      ? h('div', { class: 'nbe-muted' }, `The process ended: ${exit} (pid ${root.pid}).`)
      : null,
    root.hint ? h('div', { class: 'nbe-hint' }, h('strong', {}, 'Hint: '), visible(root.hint, 3000)) : null,
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

/** What became of the others, one line each, those that only followed marked as such. */
function othersElement(snapshot: Snapshot): HTMLElement | null {
  const failed = snapshot.failures.slice(1).map(failure => otherElement(failure));
  const known = new Set(snapshot.failures.map(failure => failure.rank));
  const rest = snapshot.workers.filter(worker => !known.has(worker.rank));
  const states = [...new Set(rest.map(worker => worker.state))];
  const lines = states.map(state => {
    const words = state === 'ended' ? 'ended by the agent, because of this' : stateText(state);
    return h(
      'li',
      {},
      `${ranksText(rest.filter(worker => worker.state === state).map(worker => worker.rank))}: ${words}`
    );
  });
  if (!failed.length && !lines.length) {
    return null;
  }
  const folded = failed.splice(OPEN_OTHERS);
  return h(
    'div',
    { class: 'nbe-others' },
    h('div', { class: 'nbe-subtitle' }, 'Others'),
    h('ul', {}, ...failed, ...lines),
    folded.length
      ? h(
          'details',
          { class: 'nbe-folded' },
          h('summary', {}, plural(folded.length, 'more failure')),
          h('ul', {}, ...folded)
        )
      : null
  );
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
    older.length
      ? h(
          'details',
          { class: 'nbe-folded' },
          h('summary', {}, plural(older.length, 'earlier round')),
          h('ul', {}, ...older)
        )
      : null,
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
  return h(
    'section',
    {
      class: `nbe-card ${isQuiet ? 'nbe-stopped' : snapshot.state === 'lost' ? 'nbe-lost' : 'nbe-failure'}`,
      role: isQuiet ? 'status' : 'alert'
    },
    h(
      'div',
      { class: 'nbe-card-head' },
      cardTitle(snapshot.state, titles[snapshot.state] ?? ''),
      isQuiet ? null : copyButton(data)
    ),
    text ? h('div', { class: 'nbe-pre-text' }, visible(text, 8000)) : null,
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
