/** Named runs, as tests and screenshots want them. */

import type { Frame, Snapshot, Worker } from '../src/model.js';
import { fakeFailure, fakeReport, fakeRound, fakeRun, S, START_NS, type FakeRun } from './fake.js';
import { NODE_SCENES } from './scenes_nodes.js';

const FRAMES: Frame[] = [
  {
    file: 'Cell In[12]',
    line: 11,
    name: '<module>',
    text: 'train(1000)',
    values: { batches: '<generator object loader at 0x7f3a>', dist: "<module 'torch.distributed'>" }
  },
  {
    file: '/opt/venv/lib/python3.12/site-packages/torch/utils/_contextlib.py',
    line: 124,
    name: 'decorate_context',
    text: 'return func(*args, **kwargs)'
  },
  {
    file: '/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py',
    line: 1775,
    name: '_wrapped_call_impl',
    text: 'return self._call_impl(*args, **kwargs)'
  },
  {
    file: 'Cell In[12]',
    line: 8,
    name: 'train',
    text: 'raise ValueError(f"loss is nan at step {step}")  # give up early',
    values: { step: '118', steps: '1000', loss: "tensor(nan, device='cuda:2', grad_fn=<MeanBackward0>)" }
  }
];

const TRACEBACK = `Traceback (most recent call last):
  Cell In[12], line 11, in <module>
    train(1000)
  Cell In[12], line 8, in train
    raise ValueError(f"loss is nan at step {step}")
ValueError: loss is nan at step 118`;

const over = (
  run: FakeRun,
  state: Snapshot['state'],
  workerState: Worker['state'],
  changes: Partial<Snapshot> = {}
) => {
  const finished_ns = START_NS + 42 * S;
  const workers = run.snapshot.workers.map(worker => ({
    ...worker,
    state: workerState,
    ended_ns: finished_ns,
    exit_code: 0
  }));
  run.snapshot = { ...run.snapshot, state, finished_ns, workers, ...changes };
  return run;
};

export const SCENES: Record<string, () => FakeRun> = {
  ...NODE_SCENES,
  four: () => {
    const run = fakeRun({ hasGpus: true });
    run.progresses.set(2, { step: 117, total: 1000, time_ns: run.now_ns - 0.2 * S, step_s: 0.44 });
    return run;
  },
  one: () => fakeRun({ ranks: 1 }),
  eight: () => {
    const run = fakeRun({ ranks: 8, hasGpus: true });
    run.lastLines.set(5, {
      stream: 'stderr',
      text: 'waiting for all_reduce',
      time_ns: run.now_ns - 42 * S,
      bar: undefined
    });
    run.progresses.set(5, { step: 110, total: 1000, time_ns: run.now_ns - 42 * S, step_s: 0.25 });
    return run;
  },
  sixtyfour: () => {
    const run = fakeRun({ ranks: 64, hasGpus: true });
    run.progresses.set(37, { step: 92, total: 1000, time_ns: run.now_ns - 0.2 * S, step_s: 0.61 });
    return run;
  },
  nodes: () => {
    const run = fakeRun({ ranks: 256, nodes: 8, hasGpus: true });
    run.lastLines.set(101, { stream: 'stdout', text: 'step 90', time_ns: run.now_ns - 66 * S, bar: undefined });
    run.progresses.set(101, { step: 118, total: 1000, time_ns: run.now_ns - 66 * S, step_s: 0.25 });
    return run;
  },
  bars: () => {
    const run = fakeRun({ hasProgress: false });
    for (const rank of [0, 1, 2, 3]) {
      const done = 410 + rank * 20;
      const bar = { label: 'epoch 1', fraction: done / 938, done, total: 938, detail: '41.2it/s, loss=0.312' };
      run.lastLines.set(rank, {
        stream: 'stderr',
        text: `epoch 1:  44%|████▍     | ${done}/938 [00:10<00:12, 41.2it/s, loss=0.312]`,
        time_ns: run.now_ns,
        bar
      });
    }
    return run;
  },
  starting: () => {
    const run = fakeRun();
    run.lastLines.clear();
    run.progresses.clear();
    run.usages.clear();
    run.lines = 0;
    run.names = [];
    run.snapshot = {
      ...run.snapshot,
      state: 'starting',
      workers: [],
      world_size: 0,
      started_ns: 0,
      rounds: [fakeRound(0, { formed_ns: 0 })]
    };
    run.now_ns = START_NS + 0.4 * S;
    return run;
  },
  failure: () => {
    const run = fakeRun();
    const finished_ns = START_NS + 31 * S;
    const root = fakeFailure(2, {
      frames: FRAMES,
      traceback: TRACEBACK,
      hint: 'The loss became nan: a smaller learning rate or gradient clipping would help.'
    });
    const follower = fakeFailure(0, {
      time_ns: START_NS + 30.2 * S,
      error_type: 'DistBackendError',
      message: 'Connection closed by peer [10.0.0.3]:43210',
      followed: 'lost its peer, rank 2'
    });
    const workers = run.snapshot.workers.map(worker => ({
      ...worker,
      ended_ns: START_NS + (30 + worker.rank / 10) * S,
      state: ([0, 2].includes(worker.rank) ? 'failed' : 'ended') as Worker['state'],
      exit_code: [0, 2].includes(worker.rank) ? 1 : null,
      signal: [0, 2].includes(worker.rank) ? '' : 'SIGTERM'
    }));
    const failures = [root, follower];
    const rounds = [fakeRound(0, { ended_ns: finished_ns, cause: 'failure', failures })];
    run.snapshot = {
      ...run.snapshot,
      state: 'failed',
      failures,
      root_rank: 2,
      rounds,
      workers,
      finished_ns,
      text: 'rank 2 failed'
    };
    return run;
  },
  killed: () => {
    const run = SCENES.failure!();
    const root = fakeFailure(2, {
      error_type: '',
      message: '',
      exit_code: null,
      signal: 'SIGKILL',
      hint: 'Killed by the system for memory (cgroup oom_kill): rank 2 used 61 GiB. Fewer ranks or smaller data a rank would help.'
    });
    run.snapshot = {
      ...run.snapshot,
      failures: [root],
      workers: run.snapshot.workers.map(w => (w.rank === 2 ? { ...w, exit_code: null, signal: 'SIGKILL' } : w))
    };
    return run;
  },
  restart: () => {
    const run = fakeRun();
    const first = fakeRound(0, {
      ended_ns: START_NS + 14 * S,
      cause: 'failure',
      failures: [fakeFailure(2, { time_ns: START_NS + 13.5 * S })]
    });
    const second = fakeRound(1, { started_ns: START_NS + 14 * S, formed_ns: START_NS + 15.5 * S });
    const workers = run.snapshot.workers.map(worker => ({ ...worker, round: 1, started_ns: START_NS + 15.5 * S }));
    run.snapshot = { ...run.snapshot, attempt: 1, max_restarts: 3, round: 1, rounds: [first, second], workers };
    return run;
  },
  stopped: () =>
    over(fakeRun(), 'stopped', 'stopped', { stop_by: 'the Stop button', text: 'stopped by the Stop button' }),
  lost: () => {
    const text = 'the supervisor (pid 41100) vanished without a last word; 2 ranks may still run: `%elastic reap`';
    const run = over(fakeRun(), 'lost', 'ended', { text });
    run.snapshot = { ...run.snapshot, workers: run.snapshot.workers.map(w => ({ ...w, exit_code: null })) };
    return run;
  },
  succeeded: () => {
    const run = over(fakeRun(), 'succeeded', 'succeeded');
    for (const rank of [0, 1, 2, 3]) {
      run.progresses.set(rank, { step: 1000, total: 1000, time_ns: run.now_ns, step_s: 0.24 });
    }
    const workers = run.snapshot.workers.map(w => ({
      ...w,
      has_result: true,
      result_text: `{'loss': 0.21${w.rank}, 'accuracy': 0.93}`,
      result_size_bytes: 120
    }));
    run.snapshot = { ...run.snapshot, workers };
    return run;
  },
  verdict: () => {
    const run = SCENES.killed!();
    const root = {
      ...run.snapshot.failures[0]!,
      message: 'killed by the kernel’s OOM killer (SIGKILL)',
      category: 'out of host memory',
      reasons: [
        'The cgroup counted 1 OOM kill between 12:02:09 and 12:02:10.',
        'Rank 2 was at 61 GiB of 64, rising by 2 GiB/s.',
        'Its exit came 0.3 s before the first peer’s “connection closed”.'
      ]
    };
    const peer = (rank: number) =>
      fakeFailure(rank, {
        time_ns: START_NS + 30.2 * S,
        error_type: 'DistBackendError',
        message: 'Connection closed by peer [10.0.0.3]:43210',
        followed: 'lost its peer, rank 2',
        category: 'lost a peer'
      });
    const workers = run.snapshot.workers.map(w => ({ ...w, state: 'failed' as const, how: 'left by itself' }));
    run.snapshot = { ...run.snapshot, failures: [root, peer(0), peer(1), peer(3)], category: root.category, workers };
    return run;
  },
  timeout: () =>
    over(fakeRun(), 'failed', 'ended', {
      text: 'the time was up: --timeout 40',
      category: 'timeout',
      reasons: ['The run lasted longer than `--timeout 40`.', 'No rank had failed until then.']
    }),
  hang: () => {
    const run = fakeRun();
    run.snapshot = { ...run.snapshot, hang: fakeReport() };
    return run;
  },
  held: () => {
    const run = fakeRun();
    const [begin, place] = [START_NS + 20 * S, 'ValueError: loss is nan at step 118\nCell In[12], line 8, in train'];
    const workers = run.snapshot.workers.map(w =>
      w.rank === 2
        ? { ...w, state: 'held' as const, held: 'failure' as const, held_text: place, holds: [[begin, 0] as [number, number]] }
        : w
    );
    run.snapshot = { ...run.snapshot, workers };
    return run;
  },
  breakpoint: () => {
    const run = SCENES.held!();
    run.setWorker(2, { held: 'breakpoint', held_text: 'Cell In[12], line 7, in train' });
    return run;
  },
  ways: () => {
    const run = SCENES.stopped!();
    const how = (rank: number) => (rank === 3 ? 'killed after 5 s' : 'saved and left by itself');
    const workers = run.snapshot.workers.map(w => ({ ...w, how: how(w.rank), signal: w.rank === 3 ? 'SIGKILL' : '' }));
    run.snapshot = { ...run.snapshot, workers };
    return run;
  },
  saved: () => {
    const run = SCENES.failure!();
    run.link = 'saved';
    run.about = { ...run.about!, can_stop: false };
    return run;
  }
};
