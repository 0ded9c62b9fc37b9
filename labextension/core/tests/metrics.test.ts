import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_NAMES, MAX_POINTS, MetricStore, type MetricRow } from '../src/index.js';

const SECOND = 1e9;

function row(rank: number, second: number, rest: Record<string, unknown>): MetricRow {
  return { time_ns: 1_700_000_000 * SECOND + second * SECOND, rank, ...rest } as MetricRow;
}

test('each metric of each rank is a series, in the order in which the names came', () => {
  const store = new MetricStore();
  store.append(row(1, 0, { step: 1, total: 4, loss: 0.5 }));
  store.append(row(0, 1, { step: 1, total: 4, loss: 0.25, lr: 0.1 }));
  store.append(row(1, 2, { step: 2, total: 4, loss: 0.125 }));
  assert.deepEqual(store.names, ['loss', 'lr']);
  assert.deepEqual(store.ranks, [0, 1]);
  assert.deepEqual(store.series('loss', 1)?.steps, [1, 2]);
  assert.deepEqual(store.series('loss', 1)?.values, [0.5, 0.125]);
  assert.equal(store.series('lr', 1), undefined);
});

test('only numbers become series; nan and infinities stay as what they are', () => {
  const store = new MetricStore();
  store.append(row(0, 0, { step: 1, loss: 1, note: 'warming up', best: true, unknown: null, round: 0 }));
  store.append(row(0, 1, { step: 2, loss: null }));
  store.append(row(0, 2, { step: 3, loss: 'NaN' }));
  store.append(row(0, 3, { step: 4, loss: '-Infinity' }));
  store.append(row(0, 3, { step: 5, loss: NaN }));
  assert.deepEqual(store.names, ['loss']);
  assert.deepEqual(store.series('loss', 0)?.values, [1, NaN, NaN, -Infinity, NaN]);
});

test('a row without a step gets the next place, and begins anew with a round', () => {
  const store = new MetricStore();
  for (const round of [0, 0, 0, 1, 1]) {
    store.append(row(0, 0, { loss: 1, round }));
  }
  assert.deepEqual(store.series('loss', 0)?.steps, [0, 1, 2, 0, 1]);
  assert.equal(store.progress(0), undefined, 'places are not progress');
});

test('progress tells step, total and the mean seconds a step', () => {
  const store = new MetricStore();
  assert.equal(store.progress(0), undefined);
  store.append(row(0, 0, { step: 10, total: 100 }));
  assert.equal(store.progress(0)?.step_s, undefined);
  store.append(row(0, 4, { step: 12 }));
  store.append(row(0, 5, { step: 12, accuracy: 0.5 }));
  const progress = store.progress(0);
  assert.deepEqual([progress?.step, progress?.total, progress?.step_s], [12, 100, 2]);
});

test('the mean step time is of the last steps: a slow beginning is forgotten', () => {
  const store = new MetricStore();
  store.append(row(0, 0, { step: 0 }));
  for (let step = 1; step <= 30; step += 1) {
    store.append(row(0, 100 + step * 0.5, { step }));
  }
  assert.equal(store.progress(0)?.step_s, 0.5);
});

test('a restart begins progress anew, though its line is kept', () => {
  const store = new MetricStore();
  for (let step = 1; step <= 5; step += 1) {
    store.append(row(0, step, { step, total: 9, loss: step, round: 0 }));
  }
  store.append(row(0, 60, { step: 3, loss: 3, round: 1 }));
  assert.deepEqual(store.progress(0), {
    step: 3,
    total: undefined,
    time_ns: (1_700_000_000 + 60) * SECOND,
    step_s: undefined
  });
  assert.deepEqual(store.series('loss', 0)?.steps, [1, 2, 3, 4, 5, 3]);
});

test('a long series is thinned: peaks, gaps and the last point stay', () => {
  const store = new MetricStore();
  const count = 5 * MAX_POINTS;
  for (let step = 0; step < count; step += 1) {
    const value = step === 7777 ? 1e6 : step === 5555 ? -1e6 : step === 3333 ? NaN : Math.sin(step);
    store.append(row(0, step, { step, loss: value }));
  }
  const { steps, values } = store.series('loss', 0)!;
  assert.ok(steps.length <= MAX_POINTS && steps.length >= MAX_POINTS / 2);
  assert.equal(values[steps.indexOf(7777)], 1e6);
  assert.equal(values[steps.indexOf(5555)], -1e6);
  assert.ok(Number.isNaN(values[steps.indexOf(3333)]));
  assert.equal(steps.at(-1), count - 1);
  assert.deepEqual(
    steps,
    steps.toSorted((a, b) => a - b)
  );
});

test('a series whose steps never go up is bounded, too', () => {
  const store = new MetricStore();
  for (let i = 0; i < 3 * MAX_POINTS; i += 1) {
    store.append(row(0, i, { step: 3 * MAX_POINTS - i, loss: i }));
  }
  assert.ok(store.series('loss', 0)!.steps.length <= MAX_POINTS);
});

test('rows that are none change nothing, and names do not grow without end', () => {
  const store = new MetricStore();
  for (const wrong of [null, 1, 'x', {}, { rank: -1, loss: 1 }, { rank: 'a', loss: 1 }, { rank: 0.5, loss: 2 }]) {
    store.append(wrong as never);
  }
  assert.deepEqual(store.names, []);
  store.append(row(0, 0, { step: 'five', total: {}, __proto__: { a: 1 }, constructor: 3, loss: [1] }));
  assert.deepEqual(store.names, ['constructor']);
  for (let i = 0; i < 3 * MAX_NAMES; i += 1) {
    store.append(row(0, i, { [`loss_of_batch_${i}`]: 1 }));
  }
  assert.equal(store.names.length, MAX_NAMES);
  assert.equal(store.refused.size, MAX_NAMES);
});
