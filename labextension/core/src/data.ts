/** What the parts of the dashboard read: a run's data as it stands in the page. Made by `RunClient`, drawn by the views. */

import type { About, Chunk, FileKey, MetricRow, Output, Snapshot, StackReport, Stream, Usage, Worker } from './model.js';

/**
 * How the page stands to the run: asking for it; following it; following it without being heard (the kernel sends, but answers nothing
 * while its cell is busy: an old ipykernel, say); hearing nothing; or showing what was saved.
 */
export type Link = 'connecting' | 'live' | 'deaf' | 'silent' | 'saved';

/** What may change; a listener gets the set of all that did since its last call. */
export type Part = 'about' | 'link' | 'state' | 'logs' | 'metrics' | 'usage' | 'outputs' | 'stopping' | 'stacks';

export const ALL_PARTS: ReadonlySet<Part> = new Set<Part>([
  'about',
  'link',
  'state',
  'logs',
  'metrics',
  'usage',
  'outputs',
  'stopping',
  'stacks'
]);

/** What became of the last question where the ranks are. */
export interface Stacks {
  /** Asked, and not answered yet. */
  isAsked: boolean;
  report: StackReport | undefined;
  /** Why there is no newer report, or "". */
  error: string;
}

export const NO_STACKS: Stacks = { isAsked: false, report: undefined, error: '' };

export interface RunData {
  readonly about: About | undefined;
  /** `EMPTY` until the source has spoken. */
  readonly snapshot: Snapshot;
  readonly link: Link;
  readonly logs: LogData;
  readonly metrics: MetricData;
  readonly usage: UsageData;
  readonly outputs: OutputData;
  /** What the kernel said of the last stop, or undefined. */
  readonly stopping: { ok: boolean; text: string } | undefined;
  readonly stacks: Stacks;
  /** The present by the clock of the run's machine (ns); of a saved run, when it was saved. */
  nowNs(): number;
  /** Called at most once a frame. Returns a function that ends it. */
  onChange(listener: (changed: ReadonlySet<Part>) => void): () => void;
  /** Ask for the run's stop; 0 skips the grace. */
  stop(grace_s: number): void;
  /** Ask where the ranks are. */
  askStacks(): void;
  /** Forget what was answered. */
  dropStacks(): void;
  /** Bytes of a file, fewer than asked for at its end. Rejects where nobody can read (a saved run). */
  read(file: FileKey, offset: number, size: number): Promise<Uint8Array>;
  dispose(): void;
}

/** A progress bar as tqdm and its like draw it. */
export interface Bar {
  label: string;
  /** 0 to 1, or undefined where the total is unknown. */
  fraction: number | undefined;
  done: number;
  total: number | undefined;
  /** The rest of its text: rate, times, postfix. */
  detail: string;
}

export interface LastLine {
  stream: Stream;
  /** As it looks now, without colours, shortened. */
  text: string;
  time_ns: number;
  bar: Bar | undefined;
}

/** What the other views ask of the logs; the log view knows the store itself. */
export interface LogData {
  /** What a rank wrote last in the latest round: its unfinished line, else its last that is not blank. */
  last(rank: number): LastLine | undefined;
  /** Lines of a rank, of all ranks without one. */
  lineCount(rank?: number): number;
  /** A rank's last lines, colours kept, both streams as they came. */
  tail(rank: number, count: number): { stream: Stream; text: string }[];
}

/** What one `report()` after another told of one metric and rank; the arrays are of one length and grow. */
export interface Series {
  readonly steps: readonly number[];
  readonly values: readonly number[];
  readonly times_ns: readonly number[];
}

export interface Progress {
  step: number;
  total: number | undefined;
  time_ns: number;
  /** Mean seconds a step over the last few, undefined before the second report. */
  step_s: number | undefined;
}

export interface MetricData {
  /** Names of the numeric metrics, in the order in which they first came. */
  readonly names: readonly string[];
  readonly ranks: readonly number[];
  series(name: string, rank: number): Series | undefined;
  progress(rank: number): Progress | undefined;
  append(row: MetricRow): void;
}

export interface UsageData {
  /** A rank's latest sample. */
  last(rank: number): Usage | undefined;
  /** A rank's samples, oldest first, a few hundred at most. */
  history(rank: number): readonly Usage[];
}

export interface OutputData {
  readonly ranks: readonly number[];
  /** What a rank displays now: updates and clears are applied. */
  of(rank: number): readonly Output[];
  /** Counts up with each change of a rank's outputs. */
  version(rank: number): number;
}

/** Takes new bytes of the files that it wants, in order, each byte once. */
export interface Sink {
  take(chunk: Chunk, bytes: Uint8Array): void;
}

export const EMPTY: Snapshot = {
  run_id: '',
  name: '',
  state: 'created',
  entry: '',
  nproc: 0,
  world_size: 0,
  min_nodes: 1,
  max_nodes: 1,
  attempt: 0,
  max_restarts: 0,
  round: 0,
  is_detached: false,
  created_ns: 0,
  started_ns: 0,
  finished_ns: 0,
  workers: [],
  rounds: [],
  failures: [],
  root_rank: null,
  notes: [],
  last_ns: 0,
  text: '',
  host: '',
  torch: '',
  python: '',
  stop_by: '',
  category: '',
  reasons: [],
  hang: null,
  waits_for: '',
  nodes: []
};

/** A worker that nobody told anything of. */
export const NO_WORKER: Worker = {
  node: 0,
  local_rank: 0,
  rank: 0,
  round: 0,
  state: 'ended',
  pid: 0,
  device: '',
  cpus: '',
  binding: '',
  start_method: '',
  started_ns: 0,
  ended_ns: 0,
  exit_code: null,
  signal: '',
  has_result: false,
  result_text: '',
  result_size_bytes: 0,
  result_error: '',
  held: '',
  held_text: '',
  holds: [],
  how: ''
};
