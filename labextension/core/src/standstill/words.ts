/** A run that stands still, in words: nothing moves, ranks are held, or somebody asked where they are. Pure. */

import type { RunData } from '../data.js';
import { isFinal, type Snapshot, type StackGroup, type StackReport, type Worker } from '../model.js';
import { dayTimeText, durationText, ranksText, visible } from '../common/text.js';

const HANG_AFTER_S = 60;

const STATES: Record<string, string> = {
  stopped: 'stopped (SIGSTOP)',
  stuck: 'stuck in the kernel',
  silent: 'no stack to be had'
};

/** What a group's main threads do, in a word or three. */
export function groupState({ state }: StackGroup): string {
  return STATES[state] ?? visible(state, 40);
}

/** `Nothing has moved for 72 s`, `Rank 2 has not moved for 72 s, others have`; of a run that is over, for how long before its end. */
export function hangTitle(data: RunData, report: StackReport): string {
  const { state, finished_ns } = data.snapshot;
  const now_ns = finished_ns || data.nowNs();
  const still_s = (data.about?.hang_after_s ?? HANG_AFTER_S) + Math.max(0, now_ns - report.time_ns) / 1e9;
  const text = still_s < 120 ? `${Math.floor(still_s)} s` : durationText(Math.floor(still_s));
  const ranks = report.groups.filter(group => group.is_still).flatMap(group => group.ranks);
  if (report.cause !== 'stall') {
    return isFinal(state) ? `Nothing moved for ${text} before the end` : `Nothing has moved for ${text}`;
  }
  const who = ranks.length ? ranksText(ranks).replace('r', 'R') : 'Some ranks';
  return isFinal(state)
    ? `${who} did not move for ${text} before the end`
    : `${who} ${ranks.length === 1 ? 'has' : 'have'} not moved for ${text}, others have`;
}

export function askedTitle({ snapshot }: RunData, report: StackReport): string {
  return `Where the ranks ${isFinal(snapshot.state) ? 'were' : 'are'}, ${dayTimeText(report.time_ns)}`;
}

/** The odd one out first; else as they came. */
export function sorted(groups: readonly StackGroup[]): StackGroup[] {
  return [...groups].sort((a, b) => Number(b.is_odd) - Number(a.is_odd));
}

/** A report as one pastes it somewhere. */
export function stacksText(title: string, report: StackReport): string {
  const lines = [title, visible(report.headline)];
  for (const group of sorted(report.groups)) {
    lines.push('', `${ranksText(group.ranks)} (${groupState(group)}): ${visible(group.doing)}`);
    lines.push(...group.notes.map(note => `  - ${visible(note)}`));
    for (const frame of group.frames) {
      lines.push(`  File "${visible(frame.file, 400)}", line ${frame.line}, in ${visible(frame.name, 200)}`);
      lines.push(...(frame.text.trim() ? [`    ${visible(frame.text.trim(), 500)}`] : []));
    }
  }
  lines.push(...(report.advice ? ['', visible(report.advice)] : []));
  return `${lines.filter((line, i) => line || i > 1).join('\n')}\n`;
}

/** A command for a cell: what is shown of it, and what is copied. */
export interface Command {
  shown: string;
  copied: string;
}

export interface Held {
  title: string;
  /** Where each waits. */
  places: [rank: number, text: string][];
  /** What stands before the commands, and after them. */
  before: string;
  commands: Command[];
  after: string;
}

const MAX_PLACES = 8;

/** What to say of ranks that wait to be looked at, those at an exception first. */
export function heldOf(snapshot: Snapshot): Held[] {
  const held = snapshot.workers.filter(worker => worker.state === 'held');
  const [stopped, failed] = [held.filter(w => w.held === 'breakpoint'), held.filter(w => w.held !== 'breakpoint')];
  return [...(failed.length ? [atException(failed, snapshot)] : []), ...(stopped.length ? [atBreakpoint(stopped, snapshot)] : [])];
}

function atException(held: readonly Worker[], { run_id }: Snapshot): Held {
  const one = held.length === 1;
  const rank = one ? '' : ` --rank ${held[0]!.rank}`;
  return {
    title: one ? `${named(held)} is held at its exception` : `${named(held)} are held at their exceptions`,
    places: placesOf(held),
    before: 'Look at it from a cell:',
    commands: [
      { shown: `%elastic debug ${run_id}${rank}`, copied: `%elastic debug ${run_id}${rank}` },
      // To be gone on with: an expression.
      { shown: `%elastic eval ${run_id}${rank} EXPR`, copied: `%elastic eval ${run_id}${rank} ` }
    ],
    after: 'Stop ends the run.'
  };
}

function atBreakpoint(held: readonly Worker[], { run_id, is_detached }: Snapshot): Held {
  const one = held.length === 1;
  const where = one ? `${named(held)} is at a breakpoint` : `${named(held)} are at breakpoints`;
  const command = `%elastic debug ${run_id}`;
  return {
    title: is_detached ? where : `${where}: answer in the cell${one ? '' : ', one rank at a time'}`,
    places: placesOf(held),
    before: is_detached ? 'Nobody attends it: step through it from a cell:' : '',
    commands: is_detached ? [{ shown: command, copied: command }] : [],
    after: ''
  };
}

function placesOf(held: readonly Worker[]): Held['places'] {
  return held.slice(0, MAX_PLACES).flatMap(w => (w.held_text ? [[w.rank, visible(w.held_text, 1000)] as [number, string]] : []));
}

/** `Rank 2`, `Ranks 0-3`. */
function named(workers: readonly Worker[]): string {
  return ranksText(workers.map(worker => worker.rank)).replace('r', 'R');
}
