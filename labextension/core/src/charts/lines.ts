/** From series to what a chart draws: lines over one common axis, or their mean and spread. Pure functions. */

import type { Series } from '../data.js';

/** One line of a chart; gaps are null. */
export interface Line {
  rank: number;
  xs: readonly number[];
  ys: readonly (number | null)[];
  /** Passes after this one: 0 for the latest; more where steps began anew since (a restart, a new epoch). */
  age: number;
}

/** Several ranks as one: at each x the mean, and who was lowest and highest. */
export interface Spread {
  age: number;
  xs: number[];
  mean: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
  lowRank: number[];
  highRank: number[];
}

/** What a library for charts wants: x, then a row of y for each line; undefined where a line has nothing to say. */
export type Aligned = [xs: number[], ...ys: (number | null | undefined)[][]];

/** So many points of a spread at most: more than a small chart has pixels. */
const BINS = 400;

/** A rank's series over steps: a further line where steps go back. Only the latest `most` lines, the oldest first. */
export function stepLines(rank: number, series: Series, most: number, isLog: boolean): Line[] {
  const { steps, values } = series;
  const lines: Line[] = [];
  let to = steps.length;
  for (let from = to - 1; from >= 0 && lines.length < most; from -= 1) {
    if (from === 0 || steps[from]! < steps[from - 1]!) {
      lines.push(lineOf(rank, steps, values, from, to, lines.length, isLog));
      to = from;
    }
  }
  return lines.reverse();
}

/** A rank's series over time, in seconds since `zero_ns`. */
export function timeLine(rank: number, series: Series, zero_ns: number, isLog: boolean): Line {
  const xs = series.times_ns.map(time_ns => (time_ns - zero_ns) / 1e9);
  for (let i = 1; i < xs.length; i += 1) {
    xs[i] = Math.max(xs[i]!, xs[i - 1]!); // a clock may be set back
  }
  return lineOf(rank, xs, series.values, 0, xs.length, 0, isLog);
}

/** Bring lines onto the union of their xs. */
export function align(lines: readonly Line[]): Aligned {
  let xs: number[] = [];
  for (const line of lines) {
    xs = union(xs, line.xs);
  }
  return [xs, ...lines.map(line => spreadOut(line, xs))];
}

/** Mean, lowest and highest of all ranks at each x; lines of one age together, the oldest first. */
export function spreads(lines: readonly Line[]): Spread[] {
  const ages = [...new Set(lines.map(line => line.age))].sort((a, b) => b - a);
  return ages.map(age => spreadOf(lines.filter(line => line.age === age), age));
}

/** The place of x in sorted xs, or of the nearest one before it; -1 before the first. */
export function placeOf(xs: readonly number[], x: number): number {
  let low = 0;
  let high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle]! <= x) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

function lineOf(
  rank: number,
  xs: readonly number[],
  values: readonly number[],
  from: number,
  to: number,
  age: number,
  isLog: boolean
): Line {
  const own: number[] = [];
  const ys: (number | null)[] = [];
  for (let i = from; i < to; i += 1) {
    if (i > from && xs[i] === xs[i - 1]) {
      ys.pop(); // told again: the last word counts
    } else {
      own.push(xs[i]!);
    }
    const value = values[i]!;
    ys.push(Number.isFinite(value) && (!isLog || value > 0) ? value : null);
  }
  return { rank, xs: own, ys, age };
}

function union(a: number[], b: readonly number[]): number[] {
  if (!a.length) {
    return b.slice();
  }
  const all: number[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    const x = i >= a.length ? b[j]! : j >= b.length ? a[i]! : Math.min(a[i]!, b[j]!);
    i += a[i] === x ? 1 : 0;
    j += b[j] === x ? 1 : 0;
    all.push(x);
  }
  return all.length === a.length ? a : all;
}

function spreadOut(line: Line, xs: number[]): (number | null | undefined)[] {
  if (line.xs.length === xs.length) {
    return line.ys as (number | null)[];
  }
  const ys = new Array<number | null | undefined>(xs.length).fill(undefined);
  let at = 0;
  for (let i = 0; i < line.xs.length; i += 1) {
    while (xs[at]! < line.xs[i]!) {
      at += 1;
    }
    ys[at] = line.ys[i];
  }
  return ys;
}

function spreadOf(lines: readonly Line[], age: number): Spread {
  const first = Math.min(...lines.map(line => line.xs[0] ?? Infinity));
  const last = Math.max(...lines.map(line => line.xs.at(-1) ?? -Infinity));
  const span = last - first;
  const width = span > 0 ? Math.max(span / BINS, Number.isInteger(span) && span <= BINS ? 1 : 0) : 1;
  const bins = Number.isFinite(span) ? Math.floor(span / width) + 1 : 0;
  const x = new Float64Array(bins).fill(-Infinity);
  const [sum, count, low, high] = [0, 0, Infinity, -Infinity].map(value => new Float64Array(bins).fill(value));
  const [lowRank, highRank] = [new Int32Array(bins), new Int32Array(bins)];
  for (const { rank, xs, ys } of lines) {
    for (let i = 0; i < xs.length; i += 1) {
      const bin = Math.floor((xs[i]! - first) / width);
      const y = ys[i]!;
      x[bin] = Math.max(x[bin]!, xs[i]!);
      if (y !== null) {
        sum![bin]! += y;
        count![bin]! += 1;
        if (y < low![bin]!) {
          low![bin] = y;
          lowRank[bin] = rank;
        }
        if (y > high![bin]!) {
          high![bin] = y;
          highRank[bin] = rank;
        }
      }
    }
  }
  const spread: Spread = { age, xs: [], mean: [], low: [], high: [], lowRank: [], highRank: [] };
  for (let bin = 0; bin < bins; bin += 1) {
    if (x[bin]! > -Infinity) {
      const told = count![bin]!;
      spread.xs.push(x[bin]!);
      spread.mean.push(told ? sum![bin]! / told : null);
      spread.low.push(told ? low![bin]! : null);
      spread.high.push(told ? high![bin]! : null);
      spread.lowRank.push(lowRank[bin]!);
      spread.highRank.push(highRank[bin]!);
    }
  }
  return spread;
}
