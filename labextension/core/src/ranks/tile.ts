/** One rank as a card: its lines have their places from the start, so nothing moves while data comes. */

import type { RunData } from '../data.js';
import { h, setAttribute, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import type { Usage } from '../model.js';
import type { RankFacts } from './facts.js';
import { markText, outcomeText, placeText, progressText, rankText } from './words.js';
import { sparkline, updateSparkline } from './sparkline.js';
import { bytesText, percentText, stateText, visible } from '../common/text.js';

export interface Tile {
  readonly element: HTMLElement;
  update(facts: RankFacts, isSelected: boolean): void;
}

/** Make the card of a rank; `onPick` is called when it is clicked. */
export function rankTile(data: RunData, onPick: (rank: number) => void): Tile {
  let rank = -1;
  const sign = icon('starting');
  const name = h('button', { type: 'button', class: 'nbe-tile-name', 'aria-pressed': 'false' });
  const state = h('span', { class: 'nbe-tile-state' }, sign, h('span', {}));
  const device = h('span', { class: 'nbe-tile-device nbe-clip' });
  const mark = h('div', { class: 'nbe-tile-mark nbe-clip' });
  const place = h('div', { class: 'nbe-tile-place nbe-clip' });
  const meters = usageMeters(data);
  const progress = progressBar();
  const last = h('div', { class: 'nbe-tile-last nbe-mono nbe-clip' });
  const pick = () => {
    if (rank >= 0 && !String(window.getSelection() ?? '')) {
      onPick(rank);
    }
  };
  const element = h(
    'li',
    { class: 'nbe-tile', onclick: pick },
    h('div', { class: 'nbe-tile-head' }, name, state, device),
    place,
    meters.element,
    progress.element,
    last,
    mark
  );
  function update(facts: RankFacts, isSelected: boolean): void {
    const { worker } = facts;
    rank = worker.rank;
    element.dataset.state = worker.state;
    element.dataset.rank = String(rank);
    element.style.setProperty('--nbe-own', `var(--nbe-rank-${Math.max(0, rank) % 8})`);
    element.classList.toggle('nbe-selected', isSelected);
    element.classList.toggle('nbe-slow', Boolean(facts.slow));
    element.classList.toggle('nbe-silent', Boolean(facts.silent));
    setText(name, rank < 0 ? 'rank ?' : `rank ${rank}`);
    setAttribute(name, 'aria-pressed', String(isSelected));
    setAttribute(name, 'aria-label', rankText(facts));
    setIcon(sign, worker.state);
    setText(state.lastElementChild!, stateText(worker.state));
    setText(device, visible(worker.device, 60));
    setText(place, placeText(facts));
    setAttribute(place, 'title', placeText(facts));
    meters.update(facts);
    progress.update(facts);
    drawLast(last, facts);
    setText(mark, markText(facts, data.nowNs(), rank < 0 ? 0 : data.logs.lineCount(rank)));
    setAttribute(mark, 'title', mark.textContent ?? '');
  }
  return { element, update };
}

/** The last line, or how the rank ended. */
function drawLast(element: HTMLElement, facts: RankFacts): void {
  const outcome = outcomeText(facts);
  const bar = facts.progress?.isBar ? facts.last?.bar : undefined;
  const line = visible(bar ? bar.detail : (facts.last?.text ?? ''), 400);
  setText(element, outcome || line);
  element.classList.toggle('nbe-outcome', Boolean(outcome));
  element.classList.toggle('nbe-stderr', !outcome && !bar && facts.last?.stream === 'stderr');
  setAttribute(element, 'title', outcome && line ? `${outcome}\nlast line: ${line}` : outcome || line);
}

function progressBar(): { element: HTMLElement; update(facts: RankFacts): void } {
  const fill = h('div', { class: 'nbe-bar-fill' });
  const bar = h('div', { class: 'nbe-bar', role: 'progressbar', 'aria-valuemin': 0, 'aria-valuemax': 100 }, fill);
  const text = h('div', { class: 'nbe-progress-text nbe-clip' });
  const element = h('div', { class: 'nbe-progress' }, text, bar);
  return {
    element,
    update({ progress, worker }) {
      element.classList.toggle('nbe-none', !progress);
      const fraction = progress?.fraction ?? (progress && worker.state === 'succeeded' ? 1 : undefined);
      bar.classList.toggle('nbe-endless', progress !== undefined && fraction === undefined);
      fill.style.transform = `scaleX(${fraction ?? 0})`;
      setText(text, progress ? progressText(progress) : '');
      setAttribute(bar, 'aria-label', `Progress of rank ${worker.rank}`);
      if (fraction === undefined) {
        bar.removeAttribute('aria-valuenow');
      } else {
        setAttribute(bar, 'aria-valuenow', String(Math.round(fraction * 100)));
      }
    }
  };
}

const SPARK_SAMPLES = 60;

interface Meter {
  readonly title: string;
  text(usage: Usage): string;
  /** What it is called when the rank has ended, and the most of it that was used is told. */
  most?: string;
  value(usage: Usage): number | undefined;
  max?: number;
  isGpu?: boolean;
}

const METERS: readonly Meter[] = [
  { title: 'CPU', text: u => percentText(u.cpu_percent), value: u => u.cpu_percent },
  { title: 'Mem', text: u => bytesText(u.memory_bytes), value: u => u.memory_bytes, most: 'Peak' },
  {
    title: 'GPU',
    text: u => (u.gpu_percent === undefined ? '' : percentText(u.gpu_percent)),
    value: u => u.gpu_percent,
    max: 100,
    isGpu: true
  },
  { title: 'VRAM', text: vramText, value: u => u.gpu_memory_bytes, isGpu: true, most: 'Peak' }
];

function vramText(usage: Usage): string {
  const { gpu_memory_bytes: used, gpu_memory_total_bytes: total } = usage;
  return used === undefined
    ? ''
    : total
      ? `${bytesText(used).replace(/ .*/, '')}/${bytesText(total).replace('.0 ', ' ')}`
      : bytesText(used);
}

function usageMeters(data: RunData): { element: HTMLElement; update(facts: RankFacts): void } {
  const cells = METERS.map(meter => {
    const title = h('span', { class: 'nbe-meter-title' }, meter.title);
    const value = h('span', { class: 'nbe-meter-value' });
    const spark = h('span', { class: 'nbe-meter-spark' });
    const element = h('div', { class: 'nbe-meter' }, title, value, spark);
    return { meter, element, title, value, spark };
  });
  let drawn: Usage | undefined;
  return {
    element: h('div', { class: 'nbe-meters' }, ...cells.map(cell => cell.element)),
    update({ usage, worker }) {
      const latest = data.usage.last(worker.rank);
      const hasGpu =
        latest?.gpu_percent !== undefined || latest?.gpu_memory_bytes !== undefined || worker.device.includes('cuda');
      for (const { meter, element, title, value } of cells) {
        element.hidden = Boolean(meter.isGpu) && !hasGpu;
        const most = usage ? '' : mostText(meter, data.usage.history(worker.rank));
        setText(title, (most && meter.most) || meter.title);
        setText(value, (usage ? meter.text(usage) : most) || '–');
      }
      if (latest !== drawn) {
        drawn = latest;
        const history = data.usage.history(worker.rank).slice(-SPARK_SAMPLES);
        cells.forEach(cell => drawSpark(cell.spark, cell.meter, history));
      }
    }
  };
}

/** The most that is known of, of a rank that uses nothing any more. */
function mostText(meter: Meter, history: readonly Usage[]): string {
  const most = meter.most ? Math.max(0, ...history.map(usage => meter.value(usage) ?? 0)) : 0;
  return most ? bytesText(most) : '';
}

/** How it went in the last minute. */
function drawSpark(parent: HTMLElement, meter: Meter, history: readonly Usage[]): void {
  const values = history.map(usage => meter.value(usage) ?? NaN);
  const old = parent.firstElementChild as SVGElement | null;
  if (values.filter(Number.isFinite).length < 2) {
    old?.remove();
  } else if (old) {
    updateSparkline(old, values);
  } else {
    parent.append(
      sparkline(values, {
        label: `${meter.title} of late`,
        max: meter.isGpu ? (meter.max ?? history.at(-1)?.gpu_memory_total_bytes) : undefined
      })
    );
  }
}
