/** How our charts look and behave, in uPlot's words. */

import type uPlot from 'uplot';
import type { ChartTheme } from './theme.js';

/** One row of y values: a rank's line, or an edge or the middle of a spread. */
export interface Curve {
  kind: 'line' | 'mean' | 'low' | 'high';
  /** Of a line. */
  rank: number;
  /** 0 for the latest pass, see `Line`. */
  age: number;
  /** Whose value an edge has at x. */
  whose?(x: number): number | undefined;
}

/** What all charts of a panel have in common just now. */
export interface ChartSettings {
  x: 'step' | 'time';
  isLog: boolean;
  /** The rank that stands out, undefined for none. */
  rank: number | undefined;
}

export interface ChartStyle {
  format(value: number): string;
  /** Ends of the y axis that are always in view; without them the data decide. */
  floor?: number;
  ceiling?: number;
  /** Steps of the y axis. */
  increments?: number[];
  /** Charts of one key share the cursor. */
  syncKey: string;
}

const AXIS_FONT = '11px system-ui, sans-serif';
const DIMMED = 0.18;

export type Look = () => { theme: ChartTheme; settings: ChartSettings };

/** Make uPlot's options; colours are asked for at each drawing, so that a theme or a selection needs no new chart. */
export function optionsOf(
  size: { width: number; height: number },
  curves: readonly Curve[],
  style: ChartStyle,
  look: Look,
  hooks: uPlot.Hooks.Arrays
): uPlot.Options {
  const { settings } = look();
  return {
    ...size,
    legend: { show: false },
    padding: [8, 10, 0, 0],
    focus: { alpha: 0.35 },
    cursor: {
      y: false,
      sync: { key: `${style.syncKey}-${settings.x}`, setSeries: false },
      focus: { prox: curves.some(curve => curve.kind === 'mean') ? -1 : 24 },
      points: { size: 7, one: false },
      drag: { x: true, y: false, dist: 5 }
    },
    scales: { x: { time: false }, y: yScale(settings, style) },
    axes: axesOf(settings, style, look),
    series: [{}, ...curves.map(curve => seriesOf(curve, look))],
    bands: bandsOf(curves, look),
    hooks
  };
}

/** `0:07`, `12:30`, `3:04:05`. */
export function clockText(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const two = (part: number): string => String(part).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A number in few characters: `0.01234`, `12,345`, `1.2e-9`, `nan`. */
export function numberText(value: number): string {
  if (Number.isNaN(value)) {
    return 'nan';
  }
  if (!Number.isFinite(value)) {
    return value > 0 ? 'inf' : '-inf';
  }
  const size = Math.abs(value);
  if (size >= 1e7 || (size > 0 && size < 1e-4)) {
    return value.toExponential(2).replace(/\.?0+e/, 'e').replace('e+', 'e');
  }
  const short = size >= 1000 ? Math.round(value) : Number(value.toPrecision(4));
  return short.toLocaleString('en-US', { maximumFractionDigits: 7 });
}

function yScale(settings: ChartSettings, style: ChartStyle): uPlot.Scale {
  if (settings.isLog) {
    return { distr: 3, log: 10 };
  }
  const { floor, ceiling } = style;
  if (floor === undefined) {
    return {};
  }
  const min = { pad: 0, soft: floor, mode: 1 as const, hard: floor };
  return { range: { min, max: { pad: 0.1, soft: ceiling, mode: ceiling === undefined ? 0 : 1 } } };
}

function axesOf(settings: ChartSettings, style: ChartStyle, look: Look): uPlot.Axis[] {
  const isTime = settings.x === 'time';
  const common: uPlot.Axis = {
    stroke: () => look().theme.text,
    font: AXIS_FONT,
    grid: { stroke: () => look().theme.grid, width: 1 },
    ticks: { show: false },
    gap: 4
  };
  const x: uPlot.Axis = {
    ...common,
    size: 22,
    space: 56,
    grid: { show: false },
    incrs: isTime ? TIME_STEPS : COUNT_STEPS,
    values: (_plot, splits) => splits.map(split => (isTime ? clockText(split) : split.toLocaleString('en-US')))
  };
  const y: uPlot.Axis = {
    ...common,
    size: 52,
    space: 28,
    values: (_plot, splits) => splits.map(split => (split === null ? null : style.format(split)))
  };
  return [x, style.increments && !settings.isLog ? { ...y, incrs: style.increments } : y];
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
const COUNT_STEPS = Array.from({ length: 13 }, (_, i) => 10 ** i).flatMap(ten => [ten, 2 * ten, 5 * ten]);

function seriesOf(curve: Curve, look: Look): uPlot.Series {
  const isEdge = curve.kind === 'low' || curve.kind === 'high';
  const stroke = (): string => strokeOf(curve, look());
  return {
    stroke,
    width: isEdge ? 0.5 : curve.kind === 'mean' ? 2 : 1.5,
    dash: curve.age ? [4, 3] : undefined,
    points: { size: 5, width: 0, fill: stroke, filter: isEdge ? () => [] : lonely }
  };
}

function strokeOf(curve: Curve, { theme, settings }: ReturnType<Look>): string {
  if (curve.kind !== 'line') {
    const edge = curve.kind === 'mean' ? 1 : 0.35;
    return faded(theme.accent, edge * (curve.age ? 0.6 : 1));
  }
  const colour = theme.ranks[curve.rank % theme.ranks.length]!;
  const isOther = settings.rank !== undefined && settings.rank !== curve.rank;
  return faded(colour, isOther ? DIMMED : curve.age ? 0.6 : 1);
}

function bandsOf(curves: readonly Curve[], look: Look): uPlot.Band[] {
  return curves.flatMap((curve, i) => {
    if (curve.kind !== 'high') {
      return [];
    }
    const low = curves.findIndex(other => other.kind === 'low' && other.age === curve.age);
    return [{ series: [i + 1, low + 1], fill: () => faded(look().theme.accent, curve.age ? 0.06 : 0.16) }];
  });
}

/** Which points get a dot: the last one (how far a rank is) and those without neighbours (no line shows them). */
function lonely(plot: uPlot, series: number): number[] {
  const ys = plot.data[series]!;
  const has = (i: number): boolean => ys[i] !== null && ys[i] !== undefined;
  const dots: number[] = [];
  let last = -1;
  let isGapBefore = true;
  for (let i = 0; i < ys.length && dots.length < 200; i += 1) {
    if (has(i)) {
      if (isGapBefore && last >= 0 && dots.at(-1) !== last && lastIsAlone(ys, last)) {
        dots.push(last);
      }
      last = i;
      isGapBefore = false;
    } else if (ys[i] === null) {
      isGapBefore = true;
    }
  }
  return last < 0 || dots.at(-1) === last ? dots : [...dots, last];
}

function lastIsAlone(ys: ArrayLike<number | null | undefined>, i: number): boolean {
  let before = i - 1;
  while (before >= 0 && ys[before] === undefined) {
    before -= 1;
  }
  return before < 0 || ys[before] === null;
}

/** A resolved colour, more transparent. */
export function faded(colour: string, alpha: number): string {
  const parts = colour.match(/^rgba?\(([^)]+)\)$/)?.[1]?.split(',');
  return alpha >= 1 || !parts ? colour : `rgba(${parts.slice(0, 3).join(',')},${alpha})`;
}
