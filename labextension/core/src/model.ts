/** The JSON shapes that the kernel and the dashboard share; `golden/` holds one of each, read by both sides' tests. */

export type RunState =
  | 'created'
  | 'starting'
  | 'running'
  | 'restarting'
  | 'stopping'
  | 'succeeded'
  | 'failed'
  | 'stopped'
  | 'lost';

export type WorkerState = 'starting' | 'running' | 'held' | 'succeeded' | 'failed' | 'stopped' | 'ended';

export type Stream = 'stdout' | 'stderr';

/** One worker of the current round. Times are nanoseconds since the epoch, 0 where unknown. */
export interface Worker {
  node: number;
  local_rank: number;
  rank: number;
  round: number;
  state: WorkerState;
  pid: number;
  device: string;
  /** CPUs it may use, compact: `0-3,8`. */
  cpus: string;
  binding: string;
  start_method: string;
  started_ns: number;
  ended_ns: number;
  exit_code: number | null;
  signal: string;
  has_result: boolean;
  result_text: string;
  result_size_bytes: number;
  result_error: string;
  /** Why it waits to be looked at, or "". */
  held: '' | 'failure' | 'breakpoint';
  /** Where it waits, in words. */
  held_text: string;
  /** When it was held: begin and end of each time, 0 while it lasts. */
  holds: [begin_ns: number, end_ns: number][];
  /** Its way to its end, in words: `saved and left by itself`. */
  how: string;
}

/** One frame of a traceback; `file` is `Cell In[12]` for notebook code. */
export interface Frame {
  file: string;
  line: number;
  name: string;
  text: string;
  /** Short texts of the variables in this frame, only of the notebook's innermost frames. */
  values?: Record<string, string>;
}

export interface Failure {
  rank: number;
  local_rank: number;
  round: number;
  time_ns: number;
  node: number;
  pid: number;
  exit_code: number | null;
  signal: string;
  error_type: string;
  message: string;
  traceback: string;
  frames: Frame[];
  /** Why this failure only followed another one, "" where it may be a cause. */
  followed: string;
  hint: string;
  /** What kind of failure it is (`out of host memory`), or "". */
  category: string;
  /** The evidence for that, a sentence each. */
  reasons: string[];
}

/** Ranks that stand at the same place. */
export interface StackGroup {
  ranks: number[];
  /** `waiting`, `busy`, `stopped`, `stuck`, `held`, `gone` or `silent`. */
  state: string;
  /** One line: `waits in all_reduce, Cell In[12], line 31`. */
  doing: string;
  /** Outermost first; empty where none could be had. */
  frames: Frame[];
  notes: string[];
  /** The others wait for this one, as far as one can tell. */
  is_odd: boolean;
  /** Of a stall: these do not move, while others do. */
  is_still: boolean;
}

/** Where all ranks of a run stand at a moment. */
export interface StackReport {
  time_ns: number;
  cause: string;
  headline: string;
  advice: string;
  kind: string;
  /** The odd one out first. */
  groups: StackGroup[];
}

/** One node of a run that an engine placed on machines. */
export interface RunNode {
  /** Its index in the order of joining; no two of a run have the same. */
  node: number;
  host: string;
  address: string;
  /** What the engine calls the machine, or "". */
  place: string;
  state: 'joined' | 'lost' | 'left';
  joined_ns: number;
  /** When it was last lost, or left; 0 while it is here. */
  lost_ns: number;
  /** Why it was lost, or left. */
  text: string;
  nproc: number | string;
  gpus: number;
  /** It was called lost, and then heard again. */
  is_back: boolean;
  /** When it was here, 0 while it lasts. */
  spans: [begin_ns: number, end_ns: number][];
}

export interface Round {
  number: number;
  attempt: number;
  cause: '' | 'success' | 'failure' | 'membership' | 'stopped';
  text: string;
  started_ns: number;
  /** When its group was formed, 0 while the rendezvous lasts. */
  formed_ns?: number;
  ended_ns: number;
  world_size: number;
  /** Whose ranks took part; empty where there are no nodes to tell apart. */
  nodes?: number[];
  failures: Failure[];
}

/** The state of a run at a moment, as `nb_elastic.snapshot.to_json` writes it. */
export interface Snapshot {
  run_id: string;
  name: string;
  state: RunState;
  entry: string;
  nproc: number | string;
  world_size: number;
  min_nodes: number;
  max_nodes: number;
  attempt: number;
  max_restarts: number;
  round: number;
  is_detached: boolean;
  created_ns: number;
  started_ns: number;
  finished_ns: number;
  workers: Worker[];
  rounds: Round[];
  /** Root cause first, other causes by time, then followers by time. */
  failures: Failure[];
  root_rank: number | null;
  notes: [level: 'info' | 'warning', text: string][];
  last_ns: number;
  text: string;
  host: string;
  torch: string;
  python: string;
  stop_by: string;
  /** What kind of failure ended the run, or "". */
  category: string;
  reasons: string[];
  /** Where the ranks stand while nothing moves. */
  hang: StackReport | null;
  /** What a launch waits for before its supervisor speaks, or "". */
  waits_for: string;
  /** All that ever joined, by their index; none in a run of this machine alone. */
  nodes: RunNode[];
}

/** What does not change while a run lasts. */
export interface About {
  run_id: string;
  /** Absolute path of the run folder. */
  dir: string;
  /** The same run as a `torchrun` line, or "". */
  torchrun: string;
  /** `Cell In[12]`, or the target's name. */
  label: string;
  /** Source of the launched cell, or "". */
  cell: string;
  /** Seconds between the SIGINT and the SIGTERM of a stop. */
  grace_s: number;
  /** Seconds of standstill after which `hang` is told. */
  hang_after_s?: number;
  /** False where this front end can only look (a run of another user's kernel, a saved one). */
  can_stop: boolean;
}

/** Kinds of files that a worker fills, append only. */
export type FileKind = 'stdout' | 'stderr' | 'metrics' | 'outputs';

/** Names one append-only file of a run: `node/round/local_rank/kind`, or `node/usage`. */
export type FileKey = string;

/** Where new bytes of a file stand; the bytes themselves lie in the message's one buffer, chunk after chunk. */
export interface Chunk {
  file: FileKey;
  kind: FileKind | 'usage';
  node: number;
  round: number;
  local_rank: number;
  rank: number;
  /** Position of the first byte in the file. */
  offset: number;
  size: number;
  /** About when they were written (ns). */
  time_ns: number;
  /** Bytes right before `offset` that were not sent, because nobody could have kept up; they can be read back. */
  skipped: number;
}

/** One line of `metrics.jsonl`: what one `report()` told. Other keys are the user's numbers by name. */
export interface MetricRow {
  time_ns: number;
  rank: number;
  step?: number;
  total?: number;
  [name: string]: number | string | boolean | null | undefined;
}

/** One line of `usage.jsonl`: what each worker of a node used at a moment. */
export interface UsageRow {
  time_ns: number;
  round: number;
  ranks: Usage[];
}

export interface Usage {
  rank: number;
  local_rank: number;
  /** Of the rank and its children, 100 is one CPU. */
  cpu_percent: number;
  memory_bytes: number;
  gpu_percent?: number;
  gpu_memory_bytes?: number;
  gpu_memory_total_bytes?: number;
}

/** One line of `outputs.jsonl`: what a rank displayed. */
export interface Output {
  time_ns: number;
  rank: number;
  /** `display` makes one, `update` changes those of its id, `clear` takes all away. */
  kind: 'display' | 'update' | 'clear';
  display_id: string;
  /** MIME bundle; images are base64, JSON kinds are values. */
  data: Record<string, unknown>;
  metadata: Record<string, unknown>;
  /** Why something is missing here (a size above the limit, say), or "". */
  note: string;
}

/** A run in the list of the lab panel. */
export interface RunRow {
  run_id: string;
  name: string;
  state: RunState;
  entry: string;
  world_size: number;
  /** On how many nodes its ranks are, 0 where there are none to tell apart. */
  nodes: number;
  created_ns: number;
  finished_ns: number;
  dir: string;
  host: string;
  /** True if the kernel that tells of it launched it. */
  is_own: boolean;
  is_detached: boolean;
  can_stop: boolean;
}

/** What is saved in the notebook, under `application/vnd.nb-elastic.run.v1+json`. */
export interface SavedRun {
  version: 1;
  run_id: string;
  dir: string;
  about?: About;
  snapshot: Snapshot;
  /** Last lines by rank. */
  tails: Record<string, Partial<Record<Stream, string[]>>>;
  metrics?: MetricRow[];
  usage?: UsageRow[];
  outputs?: Output[];
  /** When it was saved (ns): the present of a run that is not over. */
  saved_ns?: number;
}

export const MIME = 'application/vnd.nb-elastic.run.v1+json';

export function isFinal(state: RunState): boolean {
  return state === 'succeeded' || state === 'failed' || state === 'stopped' || state === 'lost';
}
