/** A run that tests make up and change by hand: what `RunClient` would have, without a kernel. */

import { EMPTY, NO_STACKS, NO_WORKER, type Stacks, type LastLine, type Link, type Part, type Progress, type RunData } from '../src/data.js';
import { TABS } from '../src/tabs/all.js';
import type { Tab } from '../src/parts.js';
import type { View } from '../src/view.js';
import type { About, Failure, Output, Round, Snapshot, StackGroup, StackReport, Usage, Worker } from '../src/model.js';

export const START_NS = 1_764_000_000e9;
export const S = 1e9;

export class FakeRun implements RunData {
  about: About | undefined;
  snapshot: Snapshot = EMPTY;
  link: Link = 'live';
  stopping: { ok: boolean; text: string } | undefined;
  stacks: Stacks = NO_STACKS;
  /** What was asked of the kernel. */
  readonly stops: number[] = [];
  asks = 0;
  now_ns = START_NS + 42 * S;
  readonly lastLines = new Map<number, LastLine>();
  readonly tails = new Map<number, { stream: 'stdout' | 'stderr'; text: string }[]>();
  readonly progresses = new Map<number, Progress>();
  readonly usages = new Map<number, Usage[]>();
  readonly shown = new Map<number, Output[]>();
  lines = 0;
  names: string[] = [];
  readonly #listeners = new Set<(changed: ReadonlySet<Part>) => void>();

  readonly logs = {
    last: (rank: number) => this.lastLines.get(rank),
    lineCount: (rank?: number) =>
      rank === undefined ? this.lines : Math.floor(this.lines / Math.max(1, this.snapshot.workers.length)),
    tail: (rank: number, count: number) => (this.tails.get(rank) ?? []).slice(-count)
  };
  readonly metrics;
  readonly usage = {
    last: (rank: number) => this.usages.get(rank)?.at(-1),
    history: (rank: number) => this.usages.get(rank) ?? []
  };
  readonly outputs;

  constructor() {
    // eslint-disable-next-line @typescript-eslint/no-this-alias
    const run = this;
    this.metrics = {
      get names() {
        return run.names;
      },
      get ranks() {
        return [...run.progresses.keys()];
      },
      series: () => undefined,
      progress: (rank: number) => run.progresses.get(rank),
      append: () => {}
    };
    this.outputs = {
      get ranks() {
        return [...run.shown.keys()];
      },
      of: (rank: number) => run.shown.get(rank) ?? [],
      version: () => 0
    };
  }

  nowNs(): number {
    return this.now_ns;
  }

  onChange(listener: (changed: ReadonlySet<Part>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get listeners(): number {
    return this.#listeners.size;
  }

  stop(grace_s: number): void {
    this.stops.push(grace_s);
  }

  askStacks(): void {
    this.asks += 1;
    this.setStacks({ isAsked: true, error: '' });
  }

  dropStacks(): void {
    this.setStacks(NO_STACKS);
  }

  setStacks(changes: Partial<Stacks>): void {
    this.stacks = { ...this.stacks, ...changes };
    this.change('stacks');
  }

  read(): Promise<Uint8Array> {
    return Promise.reject(new Error('nobody reads'));
  }

  dispose(): void {}

  /** Tell the views that something changed. */
  change(...parts: Part[]): void {
    this.#listeners.forEach(listener => listener(new Set(parts)));
  }

  /** Change the snapshot and tell. */
  set(changes: Partial<Snapshot>): void {
    this.snapshot = { ...this.snapshot, ...changes };
    this.change('state');
  }

  /** Change one worker and tell. */
  setWorker(rank: number, changes: Partial<Worker>): void {
    this.set({
      workers: this.snapshot.workers.map(worker => (worker.rank === rank ? { ...worker, ...changes } : worker))
    });
  }
}

export function fakeWorker(rank: number, changes: Partial<Worker> = {}): Worker {
  return {
    ...NO_WORKER,
    local_rank: rank,
    rank,
    state: 'running',
    pid: 41200 + rank,
    cpus: `${rank * 4}-${rank * 4 + 3}`,
    binding: `NUMA node ${rank % 2}, CPUs ${rank * 4}-${rank * 4 + 3}`,
    start_method: 'fork',
    started_ns: START_NS + 0.4 * S,
    ...changes
  };
}

export function fakeFailure(rank: number, changes: Partial<Failure> = {}): Failure {
  return {
    rank,
    local_rank: rank,
    round: 0,
    time_ns: START_NS + 30 * S,
    node: 0,
    pid: 41200 + rank,
    exit_code: 1,
    signal: '',
    error_type: 'ValueError',
    message: 'loss is nan at step 118',
    traceback: '',
    frames: [],
    followed: '',
    hint: '',
    category: '',
    reasons: [],
    ...changes
  };
}

export function fakeGroup(ranks: number[], changes: Partial<StackGroup> = {}): StackGroup {
  return {
    ranks,
    state: 'waiting',
    doing: 'waits in all_reduce, Cell In[12], line 9',
    frames: [
      { file: 'Cell In[12]', line: 11, name: '<module>', text: 'train(1000)' },
      { file: 'Cell In[12]', line: 9, name: 'train', text: 'loss.backward()' },
      {
        file: '/opt/venv/lib/python3.12/site-packages/torch/distributed/distributed_c10d.py',
        line: 2806,
        name: 'all_reduce',
        text: 'work.wait()'
      }
    ],
    notes: ['all_reduce number 118 of the default group, 1 tensor of 25 MB'],
    is_odd: false,
    is_still: false,
    ...changes
  };
}

export function fakeReport(changes: Partial<StackReport> = {}): StackReport {
  const odd = fakeGroup([2], {
    doing: 'is in next(loader), Cell In[12], line 6',
    frames: [
      { file: 'Cell In[12]', line: 11, name: '<module>', text: 'train(1000)' },
      { file: 'Cell In[12]', line: 6, name: 'train', text: 'loss = model(next(batches)).mean()' }
    ],
    notes: ['1 of its 2 DataLoader workers (pid 41377) is stopped'],
    is_odd: true
  });
  return {
    time_ns: START_NS + 40 * S,
    cause: 'hang',
    headline: 'Ranks 0, 1, 3 wait in all_reduce, Cell In[12], line 9; rank 2 is in next(loader), line 6.',
    advice: 'Rank 2 waits for its DataLoader: look at what its workers read. `%elastic stop` ends the run.',
    kind: 'dataloader',
    groups: [odd, fakeGroup([0, 1, 3])],
    ...changes
  };
}

export function fakeRound(number: number, changes: Partial<Round> = {}): Round {
  const base = {
    attempt: number,
    cause: '',
    text: '',
    started_ns: START_NS + 0.1 * S,
    formed_ns: START_NS + 0.4 * S
  } as const;
  return { number, ...base, ended_ns: 0, world_size: 4, failures: [], ...changes };
}

export interface FakeOptions {
  ranks?: number;
  nodes?: number;
  hasGpus?: boolean;
  hasProgress?: boolean;
}

/** A run that trains: all its ranks are running and write. */
export function fakeRun({ ranks = 4, nodes = 1, hasGpus = false, hasProgress = true }: FakeOptions = {}): FakeRun {
  const run = new FakeRun();
  const perNode = ranks / nodes;
  run.about = {
    run_id: '1126-101500-ab12cd',
    dir: '/home/ada/.local/state/nb_elastic/runs/1126-101500-ab12cd',
    torchrun: `torchrun --standalone --nproc-per-node ${perNode} train.py`,
    label: 'Cell In[12]',
    cell: CELL,
    grace_s: 5,
    can_stop: true
  };
  const workers = Array.from({ length: ranks }, (_, rank) => {
    const local = rank % perNode;
    return fakeWorker(rank, {
      node: Math.floor(rank / perNode),
      local_rank: local,
      device: hasGpus ? `cuda:${local}` : ''
    });
  });
  run.snapshot = {
    ...EMPTY,
    run_id: run.about.run_id,
    name: 'finetune-resnet50',
    state: 'running',
    entry: 'cell In[12]',
    nproc: perNode,
    world_size: ranks,
    min_nodes: nodes,
    max_nodes: nodes,
    created_ns: START_NS,
    started_ns: START_NS + 0.4 * S,
    last_ns: START_NS + 42 * S,
    workers,
    rounds: [fakeRound(0, { world_size: ranks })],
    host: 'gpu-node-07',
    torch: '2.13.0',
    python: '3.12.8'
  };
  for (let rank = 0; rank < ranks; rank += 1) {
    fillRank(run, rank, hasGpus, hasProgress);
  }
  run.lines = ranks * 3120;
  run.names = hasProgress ? ['loss', 'lr', 'tokens_per_s'] : [];
  return run;
}

function fillRank(run: FakeRun, rank: number, hasGpus: boolean, hasProgress: boolean): void {
  const step = 118 + ((rank * 7) % 5);
  const loss = (2.31 - step / 150 + (rank % 3) / 50).toFixed(4);
  const text = `epoch 0 | step ${step} | loss ${loss} | lr 3.0e-4 | grad norm 0.83`;
  run.lastLines.set(rank, {
    stream: 'stdout',
    text,
    time_ns: run.now_ns - (0.1 + (rank % 4) / 10) * S,
    bar: undefined
  });
  run.tails.set(
    rank,
    Array.from({ length: 14 }, (_, i) => ({ stream: 'stdout', text: `epoch 0 | step ${step - 14 + i} | loss ${loss}` }))
  );
  if (hasProgress) {
    run.progresses.set(rank, { step, total: 1000, time_ns: run.now_ns - 0.2 * S, step_s: 0.24 + (rank % 4) / 250 });
  }
  const wave = (i: number, size: number) => size * Math.abs(Math.sin(i / 5 + rank));
  run.usages.set(
    rank,
    Array.from({ length: 60 }, (_, i) => ({
      rank,
      local_rank: rank,
      cpu_percent: 92 + wave(i, 12),
      memory_bytes: (1.1 + wave(i, 0.2) + i / 200) * 2 ** 30,
      ...(hasGpus
        ? {
            gpu_percent: 78 + wave(i, 20),
            gpu_memory_bytes: (31 + wave(i, 3)) * 2 ** 30,
            gpu_memory_total_bytes: 80 * 2 ** 30
          }
        : {})
    }))
  );
}

const CELL = `%%elastic_launch --nproc-per-node 4 --max-restarts 3
import torch, torch.distributed as dist

def train(steps):
    for step in range(steps):
        loss = model(next(batches)).mean()
        if torch.isnan(loss):
            raise ValueError(f"loss is nan at step {step}")  # give up early
        loss.backward()

train(1000)`;

/** The dashboard's tabs without the views of logs, metrics and outputs, which need the real stores. */
export const FAKE_TABS: readonly Tab[] = TABS.map(tab => (tab.id === 'timeline' ? tab : { ...tab, view: emptyView }));

function emptyView(): View {
  return { element: document.createElement('p'), update() {}, dispose() {} };
}
