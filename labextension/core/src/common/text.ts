/** Numbers, times and strangers' text in words: pure functions, one way to say each thing everywhere. */

import type { Failure, RunState, Snapshot, Worker, WorkerState } from '../model.js';

/** `0.4 s`, `42 s`, `1 min 05 s`, `2 h 03 min`, `3 d 4 h`. */
export function durationText(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds <= 0) {
    return '0 s';
  }
  if (seconds < 9.95) {
    return `${seconds.toFixed(1)} s`;
  }
  const whole = Math.round(seconds);
  if (whole < 60) {
    return `${whole} s`;
  }
  if (whole < 3600) {
    return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  }
  const minutes = Math.floor(whole / 60);
  if (minutes < 24 * 60) {
    return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
  }
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

/** The same in whole seconds: text that ticks should not change its shape. */
export function elapsedText(seconds: number): string {
  return seconds < 60 ? `${Math.max(0, Math.floor(seconds))} s` : durationText(Math.floor(seconds));
}

/** `118 ms/step`, `1.4 s/step`, `2 min 05 s/step`. */
export function stepTimeText(seconds: number): string {
  return `${seconds < 0.9995 ? `${Number((seconds * 1000).toPrecision(3))} ms` : durationText(seconds)}/step`;
}

/** `512 B`, `1.2 MiB`, `80 GiB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit && value < 99.5 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** `999`, `12.3k`, `4.2M`. */
export function countText(count: number): string {
  if (count < 1000) {
    return String(count);
  }
  const [value, unit] =
    count < 999_500 ? [count / 1e3, 'k'] : count < 999_500_000 ? [count / 1e6, 'M'] : [count / 1e9, 'G'];
  return `${value < 99.5 ? Number(value.toFixed(1)) : Math.round(value)}${unit}`;
}

export function percentText(percent: number): string {
  return `${Math.round(percent)} %`;
}

/** `attempt 2 of 4`, "" where there is but one. */
export function attemptText(snapshot: Pick<Snapshot, 'max_restarts'>, attempt: number): string {
  return snapshot.max_restarts ? `attempt ${attempt + 1} of ${snapshot.max_restarts + 1}` : '';
}

/** `1 rank`, `4 ranks`. */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** `rank 2`, `ranks 0-3, 7`. */
export function ranksText(ranks: readonly number[]): string {
  const sorted = [...new Set(ranks)].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    let j = i;
    while (j + 1 < sorted.length && sorted[j + 1] === sorted[j]! + 1) {
      j += 1;
    }
    parts.push(j > i + 1 ? `${sorted[i]}-${sorted[j]}` : sorted.slice(i, j + 1).join(', '));
    i = j + 1;
  }
  return `rank${sorted.length === 1 ? '' : 's'} ${parts.join(', ')}`;
}

// Marks that turn the direction of text, invisible ones, and controls other than tab and line feed.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A stranger's text with everything invisible made visible, as `\u202e`, and shortened. */
export function visible(text: string, limit = 10_000): string {
  const short = text.length > limit ? `${text.slice(0, limit)}…` : text;
  return short.replace(HIDDEN, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** The first line that says something, made visible and shortened. */
export function firstLine(text: string, limit = 300): string {
  const line = text.split('\n', 50).find(part => part.trim()) ?? '';
  return visible(line.trim(), limit);
}

const STATE_WORDS: Record<RunState | WorkerState, string> = {
  created: 'launching',
  starting: 'starting',
  running: 'running',
  held: 'held',
  restarting: 'restarting',
  stopping: 'stopping',
  succeeded: 'succeeded',
  failed: 'failed',
  stopped: 'stopped',
  lost: 'lost',
  ended: 'ended'
};

export function stateText(state: RunState | WorkerState): string {
  return STATE_WORDS[state] ?? visible(String(state), 20);
}

/** `14:03:12`, by the reader's clock. */
export function dayTimeText(time_ns: number): string {
  const time = new Date(time_ns / 1e6);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map(n => String(n).padStart(2, '0')).join(':');
}

/** `3 saved and left by themselves, 1 killed after 5 s`: how ranks ended, equal ways together; "" where nobody told. */
export function waysText(workers: readonly Pick<Worker, 'how'>[]): string {
  const counts = new Map<string, number>();
  for (const { how } of workers) {
    if (how) {
      counts.set(how, (counts.get(how) ?? 0) + 1);
    }
  }
  return [...counts]
    .sort((a, b) => b[1] - a[1])
    .map(([how, count]) => `${count} ${visible(count > 1 ? how.replace('by itself', 'by themselves') : how, 200)}`)
    .join(', ');
}

/** How a process ended: `killed by SIGKILL`, `exit code 3`, or "". */
export function exitText(how: Pick<Worker | Failure, 'exit_code' | 'signal'>): string {
  if (how.signal) {
    return `killed by ${visible(how.signal, 40)}`;
  }
  return how.exit_code ? `exit code ${how.exit_code}` : '';
}

/** One failure in a few words: `ValueError: no`, or how the process died. */
export function failureText(failure: Failure): string {
  if (failure.error_type) {
    const message = firstLine(failure.message);
    return message ? `${visible(failure.error_type, 200)}: ${message}` : visible(failure.error_type, 200);
  }
  return firstLine(failure.message) || exitText(failure) || 'no exit code';
}
