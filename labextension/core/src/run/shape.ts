/** Makes what came from a file fit the shapes that views rely on: a wrong type becomes the template's value. */

import { EMPTY, NO_WORKER } from '../data.js';
import type { About, Failure, Frame, Round, RunNode, RunState, Snapshot, StackGroup, StackReport, Worker } from '../model.js';

type Fields = Record<string, unknown>;

const FRAME: Frame = { file: '', line: 0, name: '', text: '' };

const FAILURE: Failure = {
  rank: 0,
  local_rank: 0,
  round: 0,
  time_ns: 0,
  node: 0,
  pid: 0,
  exit_code: null,
  signal: '',
  error_type: '',
  message: '',
  traceback: '',
  frames: [],
  followed: '',
  hint: '',
  category: '',
  reasons: []
};

const STACK_GROUP: StackGroup = { ranks: [], state: '', doing: '', frames: [], notes: [], is_odd: false, is_still: false };
const STACK_REPORT: StackReport = { time_ns: 0, cause: '', headline: '', advice: '', kind: '', groups: [] };

const ROUND: Round = {
  number: 0,
  attempt: 0,
  cause: '',
  text: '',
  started_ns: 0,
  formed_ns: 0,
  ended_ns: 0,
  world_size: 0,
  failures: []
};

const NODE: RunNode = {
  node: 0,
  host: '',
  address: '',
  place: '',
  state: 'joined',
  joined_ns: 0,
  lost_ns: 0,
  text: '',
  nproc: 0,
  gpus: 0,
  is_back: false,
  spans: []
};

const RUN_STATES = new Set(
  'created starting running restarting stopping succeeded failed stopped lost'.split(' ') as RunState[]
);
const WORKER_STATES = new Set(['starting', 'running', 'held', 'succeeded', 'failed', 'stopped', 'ended']);
const CAUSES = new Set(['', 'success', 'failure', 'membership', 'stopped']);

export function snapshotOf(value: unknown): Snapshot {
  const told = record(value);
  const snapshot = fit(EMPTY, told);
  snapshot.state = RUN_STATES.has(snapshot.state) ? snapshot.state : 'lost';
  snapshot.nproc = typeof told.nproc === 'string' || typeof told.nproc === 'number' ? told.nproc : 0;
  snapshot.workers = list(told.workers).map(workerOf);
  snapshot.nodes = list(told.nodes).map(nodeOf);
  snapshot.rounds = list(told.rounds).map(roundOf);
  snapshot.failures = list(told.failures).map(failureOf);
  snapshot.notes = list(told.notes).flatMap(noteOf);
  snapshot.reasons = texts(told.reasons);
  snapshot.hang = stackReportOf(told.hang) ?? null;
  return snapshot;
}

export function aboutOf(value: unknown, snapshot: Snapshot, dir: string): About {
  const about: About = {
    run_id: snapshot.run_id,
    dir,
    torchrun: '',
    label: snapshot.entry.replace(/^(cell|function) /, ''),
    cell: '',
    grace_s: 5,
    hang_after_s: 60,
    can_stop: false
  };
  return { ...fit(about, record(value)), can_stop: false };
}

/** An object's fields, none of what is no object. */
export function record(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

/** An array's elements, none of what is no array. */
export function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function workerOf(value: unknown): Worker {
  const told = record(value);
  const worker = fit(NO_WORKER, told);
  worker.held = worker.held === 'breakpoint' || !worker.held ? worker.held : 'failure';
  worker.holds = list(told.holds).flatMap(holdOf);
  worker.state = WORKER_STATES.has(worker.state) ? worker.state : 'ended';
  return worker;
}

function nodeOf(value: unknown): RunNode {
  const told = record(value);
  const node = fit(NODE, told);
  node.state = node.state === 'joined' || node.state === 'left' ? node.state : 'lost';
  node.nproc = typeof told.nproc === 'string' ? told.nproc : node.nproc;
  node.spans = list(told.spans).flatMap(holdOf);
  return node;
}

function roundOf(value: unknown): Round {
  const told = record(value);
  const round = fit(ROUND, told);
  round.cause = CAUSES.has(round.cause) ? round.cause : '';
  round.failures = list(told.failures).map(failureOf);
  round.nodes = list(told.nodes).filter(node => typeof node === 'number');
  return round;
}

function failureOf(value: unknown): Failure {
  const told = record(value);
  const failure = fit(FAILURE, told);
  failure.frames = list(told.frames).map(frameOf);
  failure.reasons = texts(told.reasons);
  return failure;
}

/** Where ranks stand; undefined for what is no report. */
export function stackReportOf(value: unknown): StackReport | undefined {
  const told = record(value);
  if (!Array.isArray(told.groups)) {
    return undefined;
  }
  return { ...fit(STACK_REPORT, told), groups: told.groups.map(groupOf) };
}

function groupOf(value: unknown): StackGroup {
  const told = record(value);
  const ranks = list(told.ranks).filter(rank => typeof rank === 'number');
  return { ...fit(STACK_GROUP, told), ranks, frames: list(told.frames).map(frameOf), notes: texts(told.notes) };
}

function holdOf(value: unknown): Worker['holds'] {
  const [begin, end] = list(value);
  return typeof begin === 'number' && typeof end === 'number' ? [[begin, end]] : [];
}

function texts(value: unknown): string[] {
  return list(value).filter(text => typeof text === 'string');
}

function frameOf(value: unknown): Frame {
  const told = record(value);
  const frame = fit(FRAME, told);
  const values = Object.entries(record(told.values)).filter(pair => typeof pair[1] === 'string');
  return values.length ? { ...frame, values: Object.fromEntries(values) as Record<string, string> } : frame;
}

function noteOf(value: unknown): Snapshot['notes'] {
  const [level, text] = list(value);
  return typeof text === 'string' ? [[level === 'warning' ? 'warning' : 'info', text]] : [];
}

/** The template with the values that are of its fields' types; null in the template stands for a number or null. */
function fit<T extends object>(template: T, told: Fields): T {
  const fitted = { ...template } as Fields;
  for (const [name, own] of Object.entries(template)) {
    const value = told[name];
    if (typeof value === (own === null ? 'number' : typeof own) && typeof value !== 'object') {
      fitted[name] = value;
    }
  }
  return fitted as T;
}
