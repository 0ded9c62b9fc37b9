/** What is known of each rank, gathered from all stores, and who stands out: the slowest, the silent. Pure: drawn by others. */

import { NO_WORKER, type LastLine, type RunData } from '../data.js';
import { isFinal, type Failure, type RunNode, type Snapshot, type Usage, type Worker } from '../model.js';
import { isHere, nodeOf } from '../common/nodes.js';
import { durationText } from '../common/text.js';

/** How far a rank is: what it reports, else the bar that it draws. */
export interface RankProgress {
  /** True where a bar in the log tells it: the line is the bar. */
  isBar: boolean;
  label: string;
  /** 0 to 1, undefined where the total is unknown. */
  fraction: number | undefined;
  detail: string;
  step: number | undefined;
  total: number | undefined;
  step_s: number | undefined;
}

export interface RankFacts {
  /** Unique in a round. */
  key: string;
  worker: Worker;
  /** Where it is, in a run that has nodes to tell apart. */
  node: RunNode | undefined;
  usage: Usage | undefined;
  last: LastLine | undefined;
  progress: RankProgress | undefined;
  failure: Failure | undefined;
  /** Why it stands out as slow, or "". */
  slow: string;
  /** How long it has been silent while others went on, or "". */
  silent: string;
}

const SLOW_RATIO = 1.5;
const SLOW_S = 0.005;
const BEHIND_STEPS = 3;
const BEHIND_PART = 0.05;
const SILENT_NS = 10e9;
const SILENT_RATIO = 5;
/** One that stopped when the others ended may be saving what they all made. */
const LEFT_NS = 30e9;
const MAX_EXPECTED = 4096;

/** The facts of all ranks of the current round, by node and local rank. */
export function factsOf(data: RunData): RankFacts[] {
  const { snapshot } = data;
  const failures = new Map(snapshot.failures.map(failure => [failure.rank, failure]));
  const facts = withExpected(snapshot).map(worker => {
    const last = lastOf(data, worker);
    return {
      key: `${worker.node}/${worker.local_rank}`,
      worker,
      node: nodeOf(snapshot, worker.node),
      // What has ended uses nothing any more.
      usage: worker.rank < 0 || worker.ended_ns ? undefined : data.usage.last(worker.rank),
      last,
      progress: progressOf(data, worker, last),
      failure: failures.get(worker.rank),
      slow: '',
      silent: ''
    };
  });
  const running = facts.filter(fact => fact.worker.state === 'running');
  if (!isFinal(snapshot.state)) {
    markSilent(facts, data);
  }
  markSlowest(running);
  return facts;
}

/** Workers, and ranks that will come: their places are kept, so that nothing jumps when they do. */
function withExpected(snapshot: Snapshot): readonly Worker[] {
  const { workers, nproc, world_size, state, round } = snapshot;
  if (snapshot.nodes.length) {
    return isFinal(state) ? workers : withExpectedOfNodes(snapshot);
  }
  const perNode = typeof nproc === 'number' && nproc > 0 ? nproc : world_size;
  const count = Math.min(MAX_EXPECTED, rankCount(snapshot));
  if (isFinal(state) || workers.length >= count) {
    return workers;
  }
  const here = new Map(workers.map(worker => [`${worker.node}/${worker.local_rank}`, worker]));
  return Array.from({ length: count }, (_, rank) => {
    const [node, local_rank] = [Math.floor(rank / perNode), rank % perNode];
    return here.get(`${node}/${local_rank}`) ?? { ...EXPECTED, node, local_rank, rank, round };
  });
}

/** Each node here has so many ranks; which numbers they get nobody knows before. */
function withExpectedOfNodes({ workers, nodes, round }: Snapshot): readonly Worker[] {
  const here = new Set(workers.map(worker => `${worker.node}/${worker.local_rank}`));
  const missing = nodes.filter(isHere).flatMap(({ node, nproc }) =>
    Array.from({ length: Math.min(MAX_EXPECTED, Number(nproc) || 0) }, (_, local_rank) => ({ node, local_rank }))
      .filter(place => !here.has(`${place.node}/${place.local_rank}`))
      .map(place => ({ ...EXPECTED, ...place, rank: -1, round }))
  );
  const all = missing.length ? [...workers, ...missing.slice(0, MAX_EXPECTED)] : workers;
  return missing.length ? [...all].sort((a, b) => a.node - b.node || a.local_rank - b.local_rank) : all;
}

/** How many ranks there are, or were asked for; 0 where nobody knows yet. */
export function rankCount({ workers, nproc, min_nodes, world_size }: Snapshot): number {
  const asked = typeof nproc === 'number' ? nproc * Math.max(1, min_nodes) : 0;
  return world_size || Math.max(workers.length, asked);
}

const EXPECTED: Worker = { ...NO_WORKER, state: 'starting' };

function progressOf(data: RunData, worker: Worker, last: LastLine | undefined): RankProgress | undefined {
  const told = worker.rank < 0 ? undefined : data.metrics.progress(worker.rank);
  if (told && !isOfEarlierRound(told.time_ns, worker)) {
    const { step, total, step_s } = told;
    const fraction = total ? Math.min(1, Math.max(0, step / total)) : undefined;
    return { isBar: false, label: 'step', fraction, detail: '', step, total, step_s };
  }
  const bar = last?.bar;
  return (
    bar && {
      isBar: true,
      label: bar.label,
      fraction: bar.fraction,
      detail: bar.detail,
      step: bar.done,
      total: bar.total,
      step_s: undefined
    }
  );
}

/** The slowest by step time against the others' median, else by how far it is behind; only by a clear margin. */
function markSlowest(facts: readonly RankFacts[]): void {
  const timed = facts.filter(fact => fact.progress?.step_s !== undefined);
  const slowest = timed.reduce<RankFacts | undefined>(
    (a, b) => (a && a.progress!.step_s! >= b.progress!.step_s! ? a : b),
    undefined
  );
  if (slowest && timed.length > 1) {
    const own = slowest.progress!.step_s!;
    const usual = median(timed.filter(fact => fact !== slowest).map(fact => fact.progress!.step_s!));
    if (own >= usual * SLOW_RATIO && own - usual > SLOW_S) {
      slowest.slow = `slowest: ${(own / usual).toFixed(1)}x the median step`;
      return;
    }
  }
  const stepping = facts.filter(fact => fact.progress?.step !== undefined);
  const last = stepping.reduce<RankFacts | undefined>(
    (a, b) => (a && a.progress!.step! <= b.progress!.step! ? a : b),
    undefined
  );
  if (last && stepping.length > 1 && !last.silent) {
    const others = median(stepping.filter(fact => fact !== last).map(fact => fact.progress!.step!));
    const behind = Math.round(others - last.progress!.step!);
    if (behind >= BEHIND_STEPS && behind >= others * BEHIND_PART) {
      last.slow = `slowest: ${behind} steps behind`;
    }
  }
}

interface Sign {
  fact: RankFacts;
  /** Since it last wrote or reported; what has ended well needs to say nothing. */
  gap_ns: number;
  /** It tells its steps, or draws a bar: silence means that it stands. */
  isSteady: boolean;
}

/**
 * Ranks that went on as others do and then stopped. That a rank says less than others is no sign: often rank 0 alone tells of
 * all. So a rank that tells its steps is measured by those that do, too, and any other by most of those that wrote as much.
 */
function markSilent(facts: readonly RankFacts[], data: RunData): void {
  const signs = facts.flatMap(fact => signOf(fact, data));
  const lines = (sign: Sign) => data.logs.lineCount(sign.fact.worker.rank);
  for (const own of signs.filter(sign => sign.fact.worker.state === 'running')) {
    const others = signs.filter(sign => sign !== own);
    const steady = own.isSteady ? others.filter(sign => sign.isSteady) : [];
    const running = others.filter(sign => sign.fact.worker.state === 'running');
    const isLikeOthers = running.length > 1 && lines(own) * 2 >= median(running.map(lines));
    const peers = steady.length ? steady : isLikeOthers ? running : [];
    if (peers.length) {
      const end_ns = Math.max(...peers.map(sign => sign.fact.worker.ended_ns || Infinity));
      const isLeft = end_ns - (data.nowNs() - own.gap_ns) < SILENT_NS;
      const usual_ns = SILENT_RATIO * Math.max(median(peers.map(sign => sign.gap_ns)), stepNs(own.fact));
      if (own.gap_ns > Math.max(isLeft ? LEFT_NS : SILENT_NS, usual_ns)) {
        own.fact.silent = `silent for ${durationText(Math.floor(own.gap_ns / 1e9))}`;
      }
    }
  }
}

function signOf(fact: RankFacts, data: RunData): Sign[] {
  const { worker, last, progress } = fact;
  const reported_ns = progress && !progress.isBar ? (data.metrics.progress(worker.rank)?.time_ns ?? 0) : 0;
  const time_ns = Math.max(last?.time_ns ?? 0, reported_ns);
  const isTelling = progress !== undefined && (progress.isBar || progress.step_s !== undefined);
  const isWell = worker.state === 'succeeded' && isTelling;
  // After its last step a rank may have other things to do.
  const isSteady = isTelling && (isWell || progress.fraction !== 1);
  if (!isWell && (worker.state !== 'running' || !time_ns)) {
    return [];
  }
  return [{ fact, gap_ns: isWell ? 0 : Math.max(0, data.nowNs() - time_ns), isSteady }];
}

function stepNs(fact: RankFacts): number {
  return (fact.progress?.step_s ?? 0) * 1e9;
}

/** What it wrote last in this round. */
function lastOf(data: RunData, worker: Worker): LastLine | undefined {
  const last = worker.rank < 0 ? undefined : data.logs.last(worker.rank);
  return last && isOfEarlierRound(last.time_ns, worker) ? undefined : last;
}

function isOfEarlierRound(time_ns: number, worker: Worker): boolean {
  return worker.round > 0 && time_ns < worker.started_ns;
}

/** True for a rank that a reader should look at. */
export function isOdd(fact: RankFacts): boolean {
  return fact.worker.state === 'failed' || fact.worker.state === 'held' || Boolean(fact.slow || fact.silent);
}

export function median(values: readonly number[]): number {
  return sortedMedian([...values].sort((a, b) => a - b));
}

function sortedMedian(sorted: readonly number[]): number {
  const half = sorted.length / 2;
  return sorted.length % 2 ? sorted[Math.floor(half)]! : ((sorted[half - 1] ?? 0) + (sorted[half] ?? 0)) / 2;
}
