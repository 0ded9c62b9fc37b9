import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  EMPTY,
  MetricStore,
  OutputStore,
  savedSource,
  UsageStore,
  type FromKernel,
  type MetricRow,
  type SavedRun
} from '../src/index.js';

interface Told {
  messages: FromKernel[];
  /** Text of each file. */
  files: Record<string, string>;
  metrics: MetricStore;
  usage: UsageStore;
  outputs: OutputStore;
}

/** Opens a saved run as a dashboard does. */
async function open(saved: unknown): Promise<Told> {
  const source = savedSource(saved as SavedRun);
  const told: Told = {
    messages: [],
    files: {},
    metrics: new MetricStore(),
    usage: new UsageStore(),
    outputs: new OutputStore()
  };
  const isOver = new Promise<void>(resolve => {
    source.onMessage((message, buffer) => {
      assert.equal(message.view, source.view);
      told.messages.push(message);
      let at = 0;
      for (const chunk of message.type === 'chunks' ? message.chunks : []) {
        const bytes = buffer!.subarray(at, (at += chunk.size));
        const text = new TextDecoder().decode(bytes);
        assert.equal(chunk.offset, new TextEncoder().encode(told.files[chunk.file] ?? '').length);
        told.files[chunk.file] = (told.files[chunk.file] ?? '') + text;
        if (chunk.kind === 'metrics') {
          text.split('\n').forEach(line => line && told.metrics.append(JSON.parse(line) as MetricRow));
        } else if (chunk.kind === 'usage') {
          told.usage.take(chunk, bytes);
        } else if (chunk.kind === 'outputs') {
          told.outputs.take(chunk, bytes);
        }
      }
      if (message.type === 'beat') {
        resolve();
      }
    });
  });
  source.send({ type: 'open', view: source.view, have: {} });
  await isOver;
  return told;
}

const worker = { rank: 3, node: 1, local_rank: 1, round: 2, state: 'failed', exit_code: -9, signal: 'SIGKILL' };

const OLD = {
  version: 1,
  run_id: 'r1',
  dir: '/runs/r1',
  snapshot: { ...EMPTY, run_id: 'r1', entry: 'cell Cell In[2]', state: 'failed', last_ns: 9, workers: [worker] },
  tails: { '3': { stdout: ['one', 'two'], stderr: ['größer'] }, '0': {} }
};

test('a bundle of an early version shows its state and its last lines', async () => {
  const { messages, files } = await open(OLD);
  assert.deepEqual(
    messages.map(m => m.type),
    ['hello', 'state', 'chunks', 'beat']
  );
  const [hello, state, , beat] = messages;
  assert.ok(hello?.type === 'hello' && hello.about.label === 'Cell In[2]' && !hello.about.can_stop);
  assert.ok(state?.type === 'state' && state.snapshot.workers[0]?.exit_code === -9);
  assert.ok(beat?.type === 'beat' && beat.is_over);
  assert.deepEqual(files, { '1/2/1/stdout': 'one\ntwo\n', '1/2/1/stderr': 'größer\n' });
});

test('metrics, usage and outputs come back as the views read them', async () => {
  const saved = {
    ...OLD,
    saved_ns: 77,
    about: { ...{ run_id: 'r1', dir: '/runs/r1', torchrun: 'torchrun x.py', can_stop: true } },
    metrics: [1, 2, 3].flatMap(step => [0, 3].map(rank => ({ time_ns: step, rank, step, total: 3, loss: step / 2 }))),
    usage: [{ time_ns: 5, round: 2, ranks: [{ rank: 3, local_rank: 1, cpu_percent: 50, memory_bytes: 10 }] }],
    outputs: [{ time_ns: 6, rank: 3, kind: 'display', data: { 'text/plain': 'x' } }]
  };
  const { messages, metrics, usage, outputs } = await open(saved);
  const hello = messages[0];
  assert.ok(hello?.type === 'hello' && hello.time_ns === 77);
  assert.ok(hello.about.torchrun === 'torchrun x.py' && !hello.about.can_stop);
  assert.deepEqual(metrics.series('loss', 3)?.values, [0.5, 1, 1.5]);
  assert.equal(metrics.progress(0)?.step, 3);
  assert.equal(usage.last(3)?.cpu_percent, 50);
  assert.equal(outputs.of(3)[0]?.data['text/plain'], 'x');
});

test('nothing can be read or stopped', async () => {
  const source = savedSource(OLD as unknown as SavedRun);
  const types = await new Promise(resolve => {
    const types: string[] = [];
    source.onMessage(message => types.push(message.type) === 2 && resolve(types));
    source.send({ type: 'read', view: source.view, id: 1, file: '1/2/1/stdout', offset: 0, size: 9 });
    source.send({ type: 'stop', view: source.view, grace_s: 5 });
  });
  assert.deepEqual(types, ['error', 'stopping']);
});

test('a listener that went away hears nothing', async () => {
  const source = savedSource(OLD as unknown as SavedRun);
  const heard: string[] = [];
  source.onMessage(message => heard.push(message.type))();
  source.send({ type: 'open', view: source.view, have: {} });
  await Promise.resolve();
  assert.deepEqual(heard, []);
});

/** Everything wrong that a file can hold at that place. */
const WRONG: unknown[] = [null, undefined, 0, -1.5, 1e308, 'x', '<script>', true, [], [null], [[[]]], {}, { '0': null }];

function typesOf(snapshot: object): string[] {
  const types = Object.entries(snapshot).map(([key, value]) => `${key}:${Array.isArray(value) ? 'list' : typeof value}`);
  return types.filter(type => !/^(root_rank|nproc):/.test(type));
}

test('wrong types anywhere draw what they can and never throw', async () => {
  const whole: Record<string, unknown> = {
    ...OLD,
    about: {},
    metrics: [{ time_ns: 1, rank: 0, loss: 1 }],
    usage: [{ time_ns: 1, ranks: [{ rank: 0 }] }],
    outputs: [{ rank: 0, kind: 'display', data: {} }],
    saved_ns: 1
  };
  for (const wrong of WRONG) {
    await open(wrong);
    for (const key of Object.keys(whole)) {
      await open({ ...whole, [key]: wrong });
      await open({ ...whole, [key]: [wrong] });
      await open({ ...whole, tails: { '0': wrong, [key]: { stdout: wrong } } });
    }
    for (const key of Object.keys(EMPTY)) {
      const { messages } = await open({ ...OLD, snapshot: { ...OLD.snapshot, [key]: wrong } });
      const state = messages[1];
      assert.ok(state?.type === 'state');
      assert.deepEqual(typesOf(state.snapshot), typesOf(EMPTY));
    }
  }
});

test('failures and workers that are only half there get the rest', async () => {
  const failures = [{ rank: 1, frames: [{ line: 'x' }, 3] }];
  const snapshot = { ...OLD.snapshot, workers: [null, { rank: 1 }], failures };
  const state = (await open({ ...OLD, snapshot })).messages[1];
  assert.ok(state?.type === 'state');
  assert.deepEqual(
    state.snapshot.workers.map(w => [w.rank, w.state, w.exit_code]),
    [
      [0, 'ended', null],
      [1, 'ended', null]
    ]
  );
  assert.deepEqual(state.snapshot.failures[0]?.frames[0], { file: '', line: 0, name: '', text: '' });
});

test('JSON nested without end is left out', async () => {
  let deep: unknown = [];
  for (let i = 0; i < 200_000; i += 1) {
    deep = [deep];
  }
  const { outputs } = await open({ ...OLD, outputs: [{ rank: 3, kind: 'display', data: { x: deep } }] });
  assert.deepEqual(outputs.of(3), []);
});
