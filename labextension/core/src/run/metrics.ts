/** What ranks told with `report()`: series by metric and rank, and how far each is. Bounded however long a run lasts. */

import type { MetricData, Progress, Series } from '../data.js';
import type { MetricRow } from '../model.js';

/** A series longer than this is thinned to about half. */
export const MAX_POINTS = 20_000;
/** More names than this are a mistake (an id in a name, say) and not kept. */
export const MAX_NAMES = 200;

/** Step times are the mean over so many steps back. */
const RECENT = 10;
/** Fields of a row that are not the user's. */
const OWN = new Set(['time_ns', 'rank', 'round', 'step', 'total']);

/** A series that thins itself. Steps go back where an attempt began anew. */
class GrowingSeries implements Series {
  readonly steps: number[] = [];
  readonly values: number[] = [];
  readonly times_ns: number[] = [];
  /** Since the round began: where a row tells no step, its place stands for it. */
  next = 0;

  push(step: number | undefined, value: number, time_ns: number): void {
    const place = step ?? this.next;
    this.next = place + 1;
    this.steps.push(place);
    this.values.push(value);
    this.times_ns.push(time_ns);
    if (this.steps.length > MAX_POINTS) {
      this.thin();
    }
  }

  /** Keep of each four points the lowest and the highest, of gaps the first, and the last point of all. */
  private thin(isAcross = false): void {
    const { steps } = this;
    let kept = 0;
    for (let from = 0; from < steps.length; ) {
      let to = from + 1;
      while (to < steps.length && to < from + 4 && (isAcross || steps[to]! >= steps[to - 1]!)) {
        to += 1;
      }
      for (const index of this.telling(from, to)) {
        this.move(index, kept);
        kept += 1;
      }
      from = to;
    }
    for (const array of [steps, this.values, this.times_ns]) {
      array.length = kept;
    }
    if (kept > 0.8 * MAX_POINTS && !isAcross) {
      this.thin(true); // hardly two steps went up in a row
    }
  }

  /** Which of the points from..to must stay, in order. */
  private telling(from: number, to: number): number[] {
    let low = -1;
    let high = -1;
    let gap = -1;
    for (let i = from; i < to; i += 1) {
      const value = this.values[i]!;
      if (!Number.isFinite(value)) {
        gap = gap < 0 ? i : gap;
        continue;
      }
      low = low < 0 || value < this.values[low]! ? i : low;
      high = high < 0 || value >= this.values[high]! ? i : high;
    }
    const last = to === this.steps.length ? to - 1 : -1;
    return [...new Set([low, high, gap, last])].filter(i => i >= 0).sort((a, b) => a - b);
  }

  private move(from: number, to: number): void {
    this.steps[to] = this.steps[from]!;
    this.values[to] = this.values[from]!;
    this.times_ns[to] = this.times_ns[from]!;
  }
}

/** How far one rank is in the present attempt. */
class RankProgress {
  private round = -1;
  private step: number | undefined;
  private total: number | undefined;
  private time_ns = 0;
  private recent: { step: number; time_ns: number }[] = [];

  /** Returns true where an attempt began anew. */
  tell(row: MetricRow): boolean {
    const round = whole(row.round);
    const isNewRound = round !== undefined && this.round >= 0 && round > this.round;
    this.round = round ?? this.round;
    const step = finite(row.step);
    if (isNewRound || (step !== undefined && this.step !== undefined && step < this.step)) {
      this.step = undefined;
      this.total = undefined;
      this.recent = [];
    }
    this.total = finite(row.total) ?? this.total;
    if (step !== undefined) {
      this.move(step, finite(row.time_ns) ?? 0);
    }
    return isNewRound;
  }

  now(): Progress | undefined {
    if (this.step === undefined) {
      return undefined;
    }
    const [first, last] = [this.recent[0], this.recent.at(-1)];
    const steps = first && last ? last.step - first.step : 0;
    const step_s = first && last && steps > 0 ? (last.time_ns - first.time_ns) / 1e9 / steps : undefined;
    return { step: this.step, total: this.total, time_ns: this.time_ns, step_s };
  }

  private move(step: number, time_ns: number): void {
    this.time_ns = time_ns;
    if (step === this.step) {
      return;
    }
    this.step = step;
    this.recent.push({ step, time_ns });
    if (this.recent.length > RECENT + 1) {
      this.recent.shift();
    }
  }
}

export class MetricStore implements MetricData {
  readonly names: string[] = [];
  readonly ranks: number[] = [];
  /** Metrics that came when there were `MAX_NAMES` already. */
  readonly refused = new Set<string>();
  private readonly byName = new Map<string, Map<number, GrowingSeries>>();
  private readonly byRank = new Map<number, RankProgress>();

  series(name: string, rank: number): Series | undefined {
    return this.byName.get(name)?.get(rank);
  }

  progress(rank: number): Progress | undefined {
    return this.byRank.get(rank)?.now();
  }

  append(row: MetricRow): void {
    const rank = whole(row?.rank);
    if (rank === undefined) {
      return;
    }
    if (this.progressOf(rank).tell(row)) {
      this.byName.forEach(ranks => {
        const series = ranks.get(rank);
        if (series) {
          series.next = 0;
        }
      });
    }
    for (const [name, value] of Object.entries(row)) {
      const number = OWN.has(name) ? undefined : numberOf(value);
      if (number !== undefined && (value !== null || this.byName.has(name))) {
        this.seriesOf(name, rank)?.push(finite(row.step), number, finite(row.time_ns) ?? 0);
      }
    }
  }

  private progressOf(rank: number): RankProgress {
    let progress = this.byRank.get(rank);
    if (!progress) {
      progress = new RankProgress();
      this.byRank.set(rank, progress);
      this.ranks.push(rank);
      this.ranks.sort((a, b) => a - b);
    }
    return progress;
  }

  private seriesOf(name: string, rank: number): GrowingSeries | undefined {
    let ranks = this.byName.get(name);
    if (!ranks) {
      if (this.names.length >= MAX_NAMES) {
        if (this.refused.size < MAX_NAMES) {
          this.refused.add(name);
        }
        return undefined;
      }
      ranks = new Map();
      this.byName.set(name, ranks);
      this.names.push(name);
    }
    let series = ranks.get(rank);
    if (!series) {
      series = new GrowingSeries();
      ranks.set(rank, series);
    }
    return series;
  }
}

/** A metric's value as a number; NaN for one that JSON could not tell, undefined for what is no number. */
function numberOf(value: unknown): number | undefined {
  if (typeof value === 'number') {
    return value;
  }
  return value === null || value === 'NaN' ? NaN : { Infinity: Infinity, '-Infinity': -Infinity }[String(value)];
}

function finite(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}

function whole(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 ? value : undefined;
}
