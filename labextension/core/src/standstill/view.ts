/** The card of where the ranks are: told because nothing moves, or because somebody asked; the newer one is shown. */

import { copyFrom } from '../common/clipboard.js';
import { icon } from '../common/icons.js';
import type { Selection } from '../common/selection.js';
import { visible } from '../common/text.js';
import { ticked } from '../common/ticked.js';
import type { RunData } from '../data.js';
import { h, setText } from '../dom.js';
import type { StackReport } from '../model.js';
import type { Host } from '../source.js';
import type { View } from '../view.js';
import { groupElement } from './groups.js';
import { askedTitle, hangTitle, sorted, stacksText } from './words.js';

export function stacksView(data: RunData, host: Host & { selection?: Selection }): View {
  const title = h('span', {});
  const still = h('div', { class: 'nbe-still' });
  // What a screen reader says when it comes: not all the frames.
  const spoken = h('div', { class: 'nbe-unseen', role: 'status' });
  const cards = h('div', {});
  const element = h('div', { class: 'nbe-ends', hidden: true }, spoken, cards);
  let drawn = '';

  /** Is the hang's report the one that is shown? */
  const shown = (): { report: StackReport | undefined; isHang: boolean } => {
    const { hang } = data.snapshot;
    const asked = data.stacks.report;
    const isHang = Boolean(hang && (!asked || hang.time_ns > asked.time_ns));
    return { report: isHang ? hang! : asked, isHang };
  };

  function rebuild(report: StackReport | undefined, isHang: boolean): void {
    const { error } = data.stacks;
    const key = JSON.stringify([report, isHang, error, Boolean(data.snapshot.hang), data.about?.cell, data.about?.label]);
    if (key === drawn) {
      return;
    }
    drawn = key;
    element.hidden = !report && !error;
    if (element.hidden) {
      cards.replaceChildren();
      setText(spoken, '');
      return;
    }
    const isStill = Boolean(data.snapshot.hang);
    cards.replaceChildren(
      h(
        'section',
        { class: `nbe-card nbe-stacks${isStill ? ' nbe-hang' : ''}`, 'aria-label': 'Where the ranks are' },
        h(
          'div',
          { class: 'nbe-card-head' },
          h('span', { class: 'nbe-card-title' }, icon(isHang ? 'held' : report ? 'stacks' : 'warning'), title),
          h('span', { class: 'nbe-gap' }),
          report ? copyButton(title, report) : null,
          data.stacks.report || error ? closeButton(() => data.dropStacks()) : null
        ),
        error ? h('div', { class: 'nbe-message' }, ticked(`The stacks could not be taken. ${error}`)) : null,
        isStill && !isHang ? still : null,
        ...(report ? reportParts(report, data, host) : [])
      )
    );
    setText(spoken, `${titleOf(report, isHang)}. ${visible(report?.headline || error, 1000)}`);
  }

  const titleOf = (report: StackReport | undefined, isHang: boolean): string =>
    !report ? 'Where the ranks are' : isHang ? hangTitle(data, report) : askedTitle(data, report);

  return {
    element,
    update() {
      const { report, isHang } = shown();
      const { hang } = data.snapshot;
      rebuild(report, isHang);
      setText(title, titleOf(report, isHang));
      setText(still, hang ? `${hangTitle(data, hang)}.` : '');
    },
    dispose() {}
  };
}

function reportParts(report: StackReport, data: RunData, host: Host & { selection?: Selection }): (HTMLElement | null)[] {
  const groups = sorted(report.groups).map(group => groupElement(group, data.about, host));
  return [
    report.headline ? h('div', { class: 'nbe-headline' }, ticked(report.headline)) : null,
    groups.length ? h('ul', { class: 'nbe-stack-groups' }, ...groups) : null,
    report.advice ? h('div', { class: 'nbe-hint' }, ticked(report.advice)) : null
  ];
}

function copyButton(title: HTMLElement, report: StackReport): HTMLElement {
  const label = h('span', {}, 'Copy');
  const copy = () => void copyFrom(button, label, stacksText(title.textContent ?? '', report));
  const button = h('button', { type: 'button', class: 'nbe-button', title: 'Copies all of this as plain text', onclick: copy });
  button.append(icon('copy'), label);
  return button;
}

function closeButton(close: () => void): HTMLElement {
  const button = h('button', {
    type: 'button',
    class: 'nbe-button nbe-quiet',
    'aria-label': 'Close',
    title: 'Forget these stacks',
    onclick: close
  });
  button.append(icon('close'));
  return button;
}
