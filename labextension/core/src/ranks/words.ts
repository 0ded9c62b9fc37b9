/** The ranks in words: the one line that tells a reader how the whole run stands, and what each rank is. Pure. */

import { isHere, nodesText } from '../common/nodes.js';
import type { Worker, WorkerState } from '../model.js';
import { isFinal, type Snapshot } from '../model.js';
import { median, type RankFacts, type RankProgress } from './facts.js';
import {
  bytesText,
  countText,
  durationText,
  elapsedText,
  exitText,
  failureText,
  firstLine,
  ranksText,
  stateText,
  stepTimeText,
  visible
} from '../common/text.js';

const ORDER: readonly WorkerState[] = ['running', 'held', 'starting', 'failed', 'succeeded', 'stopped', 'ended'];

/** One piece of the summary; a rank that it names can be selected. */
export interface Piece {
  text: string;
  kind: '' | 'bad' | 'warn';
  rank?: number;
}

/** `3 of 4 running`, `step 120-124 of 1000`, `slowest: rank 2 (1.8x the median step)`. */
export function summaryPieces(facts: readonly RankFacts[], snapshot: Snapshot, isLive = true): Piece[] {
  if (!facts.length) {
    const text = isFinal(snapshot.state) ? 'No rank was started.' : 'Waiting for the ranks…';
    return [{ text, kind: '' }, ...nodePieces(snapshot)];
  }
  const pieces = [...statePieces(facts), ...nodePieces(snapshot)];
  const steps = stepsText(facts);
  if (steps) {
    pieces.push({ text: steps, kind: '' });
  }
  // With a rank that stands, nobody knows.
  const isStill = snapshot.hang || facts.some(fact => fact.silent || fact.worker.state === 'held');
  const isKnown = isLive && !isFinal(snapshot.state) && !isStill;
  const left = isKnown ? leftText(facts) : '';
  if (left) {
    pieces.push({ text: left, kind: '' });
  }
  const slow = facts.find(fact => fact.slow);
  if (slow) {
    const why = slow.slow.replace(/^slowest: /, '');
    pieces.push({ text: `slowest rank ${slow.worker.rank} (${why})`, kind: 'warn', rank: slow.worker.rank });
  }
  const silent = facts.filter(fact => fact.silent);
  if (silent.length) {
    const one = silent.length === 1 ? silent[0] : undefined;
    const text = one
      ? `rank ${one.worker.rank} ${one.silent}`
      : `${ranksText(silent.map(f => f.worker.rank))} silent while others go on`;
    pieces.push({ text, kind: 'warn', rank: silent[0]!.worker.rank });
  }
  return pieces;
}

/** Nodes that were lost and are not back. */
function nodePieces({ nodes }: Snapshot): Piece[] {
  const lost = nodes.filter(node => !isHere(node) && node.state === 'lost').map(node => node.node);
  const text = lost.length > 8 ? `${lost.length} nodes lost` : `${nodesText(lost)} lost`;
  return lost.length ? [{ text, kind: 'bad' }] : [];
}

function statePieces(facts: readonly RankFacts[]): Piece[] {
  const counts = new Map<WorkerState, RankFacts[]>();
  for (const fact of facts) {
    counts.set(fact.worker.state, [...(counts.get(fact.worker.state) ?? []), fact]);
  }
  const present = ORDER.filter(state => counts.has(state));
  return present.map((state, i) => {
    const which = counts.get(state)!;
    const of = i === 0 ? ` of ${facts.length}` : '';
    return state === 'failed' || state === 'held'
      ? { text: `${which.length}${of} ${state}`, kind: state === 'held' ? 'warn' : 'bad', rank: which[0]!.worker.rank }
      : { text: `${which.length}${of} ${stateText(state)}`, kind: '' };
  });
}

/** `step 120-124 of 1000`, or "" where no rank tells steps. */
export function stepsText(facts: readonly RankFacts[]): string {
  const steps = facts.map(fact => fact.progress?.step).filter(step => step !== undefined);
  if (!steps.length) {
    return '';
  }
  const [low, high] = [Math.min(...steps), Math.max(...steps)];
  const totals = new Set(facts.map(fact => fact.progress?.total).filter(total => total !== undefined));
  const of = totals.size === 1 ? ` of ${[...totals][0]}` : '';
  return `step ${low === high ? low : `${low}–${high}`}${of}`;
}

/** The part that all ranks have done, undefined where nobody tells. */
export function doneFraction(facts: readonly RankFacts[]): number | undefined {
  const fractions = facts.map(fact => fact.progress?.fraction).filter(fraction => fraction !== undefined);
  return fractions.length ? Math.min(...fractions) : undefined;
}

function leftText(facts: readonly RankFacts[]): string {
  const left = facts
    .map(fact => fact.progress)
    .filter(p => p?.total !== undefined && p.step !== undefined && p.step_s !== undefined)
    .map(p => (p!.total! - p!.step!) * p!.step_s!);
  const most = left.length ? Math.max(...left) : 0;
  return most > 1 ? `about ${most < 10 ? `${Math.ceil(most)} s` : durationText(most)} left` : '';
}

/** What a rank's progress says beside its bar. */
export function progressText(progress: RankProgress): string {
  const { label, step, total, step_s } = progress;
  const count = step === undefined ? '' : total === undefined ? `${step}` : `${step}/${total}`;
  return [visible(label, 60), count, step_s === undefined ? '' : stepTimeText(step_s)].filter(Boolean).join(' ');
}

/** Where a rank runs: `pid 4242 · NUMA node 0, CPUs 0-7`. That it is bound to nothing is said once, in the run's notes. */
export function placeText(facts: RankFacts): string {
  const { pid, cpus, binding, local_rank } = facts.worker;
  const local = facts.node ? `local rank ${local_rank}` : '';
  const bound = /\bis off\b/.test(binding) ? '' : firstLine(binding, 120).replace('NUMA node', 'NUMA');
  const place = bound || (cpus ? `CPUs ${visible(cpus, 80)}` : '');
  const both = bound && cpus && !bound.includes(cpus) ? `${bound} (CPUs ${visible(cpus, 80)})` : place;
  return [local, pid ? `pid ${pid}` : '', both].filter(Boolean).join(' · ');
}

/** How a rank ended, or "" while it lasts. */
export function outcomeText(facts: RankFacts): string {
  const { worker, failure } = facts;
  const way = visible(worker.how ?? '', 200);
  if (worker.state === 'held') {
    return firstLine(worker.held_text) || heldText(worker);
  }
  if (worker.state === 'failed') {
    const exit = exitText(worker);
    const why = failure ? failureText(failure) : '';
    const how = way === 'left by itself' || way === why ? '' : way;
    return [why, why.includes(exit) ? '' : exit, how].filter(Boolean).join(' · ') || 'failed';
  }
  if (worker.result_error) {
    return `its result was not kept: ${firstLine(worker.result_error)}`;
  }
  if (worker.state === 'succeeded') {
    const size = worker.result_size_bytes > 1e5 ? ` (${bytesText(worker.result_size_bytes)})` : '';
    return worker.has_result && worker.result_text !== 'None' ? `returned ${firstLine(worker.result_text)}${size}` : '';
  }
  if (worker.state === 'ended') {
    // Of a lost run's ranks nobody knows.
    const isSeen = worker.signal || worker.exit_code !== null;
    return way || (isSeen ? `ended by the agent${worker.signal ? ` (${visible(worker.signal, 40)})` : ''}` : '');
  }
  return worker.state === 'stopped' ? way || exitText(worker) : '';
}

/** Where a held rank waits, in general. */
export function heldText({ held }: Pick<Worker, 'held'>): string {
  return held === 'breakpoint' ? 'at a breakpoint' : 'held at its exception';
}

/** A rank in one sentence, for screen readers and hovers. */
export function rankText(facts: RankFacts): string {
  const { worker, usage, progress } = facts;
  const parts = [
    `Rank ${worker.rank < 0 ? '?' : worker.rank}: ${stateText(worker.state)}`,
    facts.node ? `node ${worker.node}, local rank ${worker.local_rank}` : '',
    progress ? progressText(progress) : '',
    usage ? `CPU ${Math.round(usage.cpu_percent)} %, memory ${bytesText(usage.memory_bytes)}` : '',
    facts.slow,
    facts.silent,
    outcomeText(facts)
  ];
  return parts.filter(Boolean).join(', ');
}

/** What stands out about a rank, else how lately it wrote, or how long it ran. */
export function markText(facts: RankFacts, now_ns: number, lines: number): string {
  const odd = [facts.slow, facts.silent].filter(Boolean).join(' · ');
  if (odd) {
    return odd;
  }
  const { started_ns, ended_ns } = facts.worker;
  if (ended_ns && started_ns) {
    return `ran ${durationText((ended_ns - started_ns) / 1e9)}`;
  }
  const ago_s = facts.last ? (now_ns - facts.last.time_ns) / 1e9 : 0;
  const wrote = facts.last
    ? ago_s < 2
      ? 'wrote just now'
      : `wrote ${elapsedText(ago_s)} ago`
    : facts.worker.pid
      ? 'wrote nothing yet'
      : '';
  return [wrote, lines ? `${countText(lines)} ${lines === 1 ? 'line' : 'lines'}` : ''].filter(Boolean).join(' · ');
}

/** `32 running, 1 failed · step 120-124 of 1000 · CPU 3150 % · 40 GiB`: a node in one line; less where it is all there is. */
export function groupText(facts: readonly RankFacts[], isAlone: boolean): string {
  const cpu = facts.reduce((sum, fact) => sum + (fact.usage?.cpu_percent ?? 0), 0);
  const memory = facts.reduce((sum, fact) => sum + (fact.usage?.memory_bytes ?? 0), 0);
  const gpus = facts.map(fact => fact.usage?.gpu_percent).filter(percent => percent !== undefined);
  const states = statePieces(facts).map(piece => piece.text.replace(/ of \d+/, ''));
  return [
    isAlone ? '' : states.join(', '),
    isAlone ? '' : stepsText(facts),
    cpu ? `CPU ${Math.round(cpu)} %` : '',
    memory ? bytesText(memory) : '',
    gpus.length ? `GPU ${Math.round(median(gpus))} % (median)` : ''
  ]
    .filter(Boolean)
    .join(' · ');
}
