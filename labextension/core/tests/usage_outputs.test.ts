import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  MAX_BYTES,
  MAX_OUTPUTS,
  MAX_SAMPLES,
  OutputStore,
  UsageStore,
  type Chunk,
  type Output,
  type Sink
} from '../src/index.js';

const encoder = new TextEncoder();

function feed(sink: Sink, rank: number, lines: unknown[], kind: Chunk['kind'] = 'outputs'): void {
  const bytes = encoder.encode(lines.map(line => `${JSON.stringify(line)}\n`).join(''));
  const file = kind === 'usage' ? '0/usage' : `0/0/${rank}/${kind}`;
  const place = { node: 0, round: 0, local_rank: rank, rank };
  sink.take({ file, kind, ...place, offset: 0, size: bytes.length, time_ns: 0, skipped: 0 }, bytes);
}

function display(text: string, rest: Partial<Output> = {}): Partial<Output> {
  return { time_ns: 1, rank: 0, kind: 'display', display_id: '', data: { 'text/plain': text }, ...rest };
}

const texts = (store: OutputStore, rank: number): unknown[] => store.of(rank).map(o => o.data['text/plain'] ?? o.note);

test('usage keeps the last samples of each rank', () => {
  const store = new UsageStore();
  for (let i = 0; i < MAX_SAMPLES + 10; i += 1) {
    const ranks = [0, 1].map(rank => ({ rank, local_rank: rank, cpu_percent: i, memory_bytes: 1000 + rank }));
    feed(store, 0, [{ time_ns: i, round: 0, ranks }], 'usage');
  }
  assert.equal(store.history(0).length, MAX_SAMPLES);
  assert.deepEqual(store.last(1), {
    time_ns: MAX_SAMPLES + 9,
    rank: 1,
    local_rank: 1,
    cpu_percent: MAX_SAMPLES + 9,
    memory_bytes: 1001
  });
  assert.deepEqual(store.ranks, [0, 1]);
});

test('usage leaves out what is wrong in a line and keeps the rest', () => {
  const store = new UsageStore();
  const fine = { rank: 2, local_rank: 0, cpu_percent: 5, memory_bytes: 6, gpu_percent: 'lots', gpu_memory_bytes: 7 };
  const rows = [7, null, [], { time_ns: 'x', ranks: [] }, { time_ns: 1, ranks: [null, { rank: 'a' }, fine] }];
  feed(store, 0, rows, 'usage');
  assert.deepEqual(store.ranks, [2]);
  assert.equal(store.last(2)?.gpu_memory_bytes, 7);
  assert.equal('gpu_percent' in store.last(2)!, false);
});

test('a process that has ended does not seem to give its memory back first', () => {
  const store = new UsageStore();
  const at = (time_ns: number, memory_bytes: number) => ({
    time_ns,
    round: 0,
    ranks: [{ rank: 0, local_rank: 0, cpu_percent: 9, memory_bytes }]
  });
  feed(store, 0, [at(1, 1000), at(2, 0)], 'usage');
  assert.equal(store.last(0)?.memory_bytes, 1000);
});

test('an update changes the display of its id where it stands; a clear takes all away', () => {
  const store = new OutputStore();
  feed(store, 1, [display('a', { display_id: 'x' }), display('b'), display('a2', { kind: 'update', display_id: 'x' })]);
  assert.deepEqual(texts(store, 1), ['a2', 'b']);
  const before = store.version(1);
  feed(store, 1, [display('lost', { kind: 'update', display_id: 'unknown' }), { ...display(''), kind: 'clear' }]);
  assert.deepEqual(texts(store, 1), []);
  assert.ok(store.version(1) > before);
  assert.equal(store.version(0), 0);
});

test('an output belongs to the rank whose file it is in, whatever it claims', () => {
  const store = new OutputStore();
  feed(store, 3, [display('mine', { rank: 0 })]);
  assert.deepEqual(store.ranks, [3]);
  assert.equal(store.of(3)[0]?.rank, 3);
});

test('many outputs: the oldest go, and a note tells so', () => {
  const store = new OutputStore();
  feed(
    store,
    0,
    Array.from({ length: MAX_OUTPUTS + 5 }, (_, i) => display(String(i)))
  );
  const shown = texts(store, 0);
  assert.equal(shown.length, MAX_OUTPUTS + 1);
  assert.match(String(shown[0]), /^5 earlier outputs are not kept/);
  assert.equal(shown.at(-1), String(MAX_OUTPUTS + 4));
});

test('large outputs: all ranks together stay below the limit', () => {
  const store = new OutputStore();
  const large = 'x'.repeat(2e6);
  for (let i = 0; i < 40; i += 1) {
    feed(store, i % 2, [display(large)]);
  }
  const sizes = [0, 1].flatMap(rank => texts(store, rank)).reduce<number>((sum, text) => sum + String(text).length, 0);
  assert.ok(sizes <= MAX_BYTES && sizes > MAX_BYTES - 5e6);
});

test('lines that are no outputs, or of wrong types, draw what they can', () => {
  const store = new OutputStore();
  const wrong = { kind: 'display', data: [1], metadata: 'x', note: 5, display_id: {}, time_ns: 'y' };
  feed(store, 0, [1, null, 'x', {}, { kind: 'explode' }, wrong]);
  const blank = { time_ns: 0, rank: 0, kind: 'display', display_id: '', data: {}, metadata: {}, note: '' };
  assert.deepEqual(store.of(0), [blank]);
});
