/** A traceback to be read: the notebook's lines stand out with their values, what libraries did is folded. */

import { h, type Child } from '../dom.js';
import type { About, Failure, Frame } from '../model.js';
import { highlight } from './python.js';
import type { Host } from '../source.js';
import { plural, visible } from '../common/text.js';

const CONTEXT_LINES = 2;
const MAX_VALUES = 30;
const LIBRARY = /[/\\](site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]|^<frozen |^<__array_function__/;

/** True for code of the notebook. */
export function isNotebook(frame: Frame): boolean {
  return /^Cell In\s*\[/.test(frame.file);
}

function isLibrary(frame: Frame): boolean {
  return LIBRARY.test(frame.file);
}

export function tracebackElement(failure: Failure, about: About | undefined, host: Host): HTMLElement {
  const element = framesElement(failure.frames, about, host);
  if (failure.traceback.trim()) {
    const whole = h('pre', { class: 'nbe-pre' }, visible(failure.traceback.trimEnd(), 100_000));
    element.append(
      failure.frames.length
        ? h('details', { class: 'nbe-folded' }, h('summary', {}, 'The whole traceback as text'), whole)
        : whole
    );
  }
  return element;
}

/** Frames with their lines, those of libraries folded. */
export function framesElement(frames: readonly Frame[], about: About | undefined, host: Host): HTMLElement {
  const element = h('div', { class: 'nbe-traceback' });
  for (const group of grouped(frames)) {
    const lines = group.map(frame => frameElement(frame, about, host));
    element.append(
      ...(group.length > 1 && isLibrary(group[0]!)
        ? [
            h(
              'details',
              { class: 'nbe-folded' },
              h('summary', {}, `${plural(group.length, 'frame')} in ${libraries(group)}`),
              ...lines
            )
          ]
        : lines)
    );
  }
  return element;
}

/** Frames of libraries that follow one another, together. */
function grouped(frames: readonly Frame[]): Frame[][] {
  const groups: Frame[][] = [];
  for (const frame of frames) {
    const last = groups.at(-1);
    if (last && isLibrary(frame) && isLibrary(last[0]!)) {
      last.push(frame);
    } else {
      groups.push([frame]);
    }
  }
  return groups;
}

function libraries(frames: readonly Frame[]): string {
  const names = frames.map(frame => /packages[/\\]([^/\\]+)/.exec(frame.file)?.[1]?.replace(/\.py$/, '') ?? 'Python');
  return visible([...new Set(names)].join(', '), 100);
}

function frameElement(frame: Frame, about: About | undefined, host: Host): HTMLElement {
  const kind = isNotebook(frame) ? 'nbe-of-notebook' : isLibrary(frame) ? 'nbe-of-library' : 'nbe-of-user';
  const place = visible(`${frame.file}, line ${frame.line}`, 400);
  const { file, line } = frame;
  const where: Child =
    isNotebook(frame) && host.openCell
      ? h(
          'button',
          {
            type: 'button',
            class: 'nbe-link',
            title: 'Show this line of the cell',
            onclick: () => host.openCell?.(file, line)
          },
          place
        )
      : h('span', { class: 'nbe-place' }, place);
  return h(
    'div',
    { class: `nbe-frame ${kind}` },
    h(
      'div',
      { class: 'nbe-frame-head' },
      where,
      h('span', { class: 'nbe-muted' }, ' in ', h('code', {}, visible(frame.name, 200)))
    ),
    sourceElement(frame, about),
    valuesElement(frame)
  );
}

/** The line that was running, among its neighbours where the cell's source is known. */
function sourceElement(frame: Frame, about: About | undefined): HTMLElement | null {
  const cell = about?.cell && about.label === frame.file ? about.cell.split('\n') : [];
  if (!frame.text) {
    return null;
  }
  // The cell's own first line, %%elastic_launch, may or may not be counted: the text decides.
  const index = [frame.line - 1, frame.line - 2].find(i => cell[i]?.trim() === frame.text.trim().split('\n')[0]);
  if (index === undefined) {
    return h('pre', { class: 'nbe-source' }, sourceLine(frame.line, frame.text.trimEnd(), true));
  }
  const first = Math.max(0, index - CONTEXT_LINES);
  const last = cell.findLastIndex(text => text.trim());
  const lines = cell.slice(first, Math.min(index + CONTEXT_LINES, last) + 1);
  return h(
    'pre',
    { class: 'nbe-source' },
    ...lines.map((text, i) => sourceLine(frame.line - index + first + i, text, first + i === index))
  );
}

function sourceLine(number: number, text: string, isCurrent: boolean): HTMLElement {
  const line = h(
    'span',
    { class: isCurrent ? 'nbe-source-line nbe-current' : 'nbe-source-line' },
    h('span', { class: 'nbe-number' }, number)
  );
  line.append(highlight(text));
  return line;
}

function valuesElement(frame: Frame): HTMLElement | null {
  const values = Object.entries(frame.values ?? {}).slice(0, MAX_VALUES);
  if (!values.length) {
    return null;
  }
  const rows = values.flatMap(([name, value]) => [
    h('dt', {}, visible(name, 100)),
    h('dd', { title: visible(String(value), 1000) }, visible(String(value), 500))
  ]);
  return h('dl', { class: 'nbe-values', 'aria-label': `Values in ${visible(frame.name, 100)}` }, ...rows);
}
