import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  align,
  clockText,
  drawingOf,
  faded,
  numberText,
  placeOf,
  spreads,
  stepLines,
  timeLine,
  type Line
} from '../src/index.js';

const series = (steps: number[], values: number[]) => ({ steps, values, times_ns: steps.map(step => 1e9 * step) });
const line = (rank: number, xs: number[], ys: (number | null)[], age = 0): Line => ({ rank, xs, ys, age });

test('steps that go back begin a further line; only the latest ones are kept', () => {
  const lines = stepLines(3, series([1, 2, 3, 2, 3, 1], [10, 20, 30, 21, 31, 12]), 2, false);
  assert.deepEqual(lines, [line(3, [2, 3], [21, 31], 1), line(3, [1], [12], 0)]);
  assert.deepEqual(stepLines(0, series([], []), 2, false), []);
});

test('of a step that was told twice the last word counts', () => {
  assert.deepEqual(stepLines(0, series([1, 1, 2], [5, 6, 7]), 1, false), [line(0, [1, 2], [6, 7])]);
});

test('what is not finite, and on a log scale what is not positive, is a gap', () => {
  const told = series([1, 2, 3, 4], [NaN, -1, Infinity, 2]);
  assert.deepEqual(stepLines(0, told, 1, false)[0]?.ys, [null, -1, null, 2]);
  assert.deepEqual(stepLines(0, told, 1, true)[0]?.ys, [null, null, null, 2]);
});

test('over time there is one line, and a clock that was set back does no harm', () => {
  assert.deepEqual(timeLine(1, series([5, 7, 6, 9], [1, 2, 3, 4]), 4e9, false), line(1, [1, 3, 5], [1, 3, 4]));
});

test('lines of different steps share one axis', () => {
  const aligned = align([line(0, [1, 2, 3], [1, null, 3]), line(1, [2, 4], [20, 40]), line(2, [], [])]);
  const none = undefined;
  assert.deepEqual(aligned, [
    [1, 2, 3, 4],
    [1, null, 3, none],
    [none, 20, none, 40],
    [none, none, none, none]
  ]);
});

test('a spread is the mean of those who told, and names the lowest and the highest', () => {
  const [spread] = spreads([line(4, [1, 2, 3], [1, 5, null]), line(7, [1, 2, 3], [3, 1, null]), line(9, [1], [5])]);
  assert.deepEqual(spread, {
    age: 0,
    xs: [1, 2, 3],
    mean: [3, 3, null],
    low: [1, 1, null],
    high: [5, 5, null],
    lowRank: [4, 7, 0],
    highRank: [9, 4, 0]
  });
});

test('a spread of long lines has no more points than a chart has pixels, and loses no peak', () => {
  const xs = Array.from({ length: 20_000 }, (_, i) => i);
  const ranks = [0, 1, 2].map(rank => line(rank, xs, xs.map(x => (rank === 1 && x === 12_345 ? 99 : 1))));
  const [spread] = spreads(ranks);
  assert.ok(spread!.xs.length <= 401 && spread!.xs.length > 300);
  assert.equal(spread!.xs.at(-1), 19_999);
  assert.equal(Math.max(...(spread!.high as number[])), 99);
  assert.equal(spread!.highRank[spread!.high.indexOf(99)], 1);
});

test('sparse steps and times keep their places in a spread', () => {
  assert.deepEqual(spreads([line(0, [0, 1000, 5000], [1, 2, 3])])[0]?.xs, [0, 1000, 5000]);
  assert.deepEqual(spreads([line(0, [7], [1]), line(1, [7], [3])])[0]?.mean, [2]);
  assert.deepEqual(spreads([line(0, [], [])])[0]?.xs, []);
  assert.deepEqual(spreads([]), []);
});

test('an earlier attempt is a spread of its own', () => {
  const found = spreads([line(0, [1, 2], [1, 1], 1), line(0, [1], [5]), line(1, [1, 2], [3, 3], 1), line(1, [1], [7])]);
  assert.deepEqual(
    found.map(spread => [spread.age, spread.mean]),
    [
      [1, [2, 2]],
      [0, [6]]
    ]
  );
});

test('the rank that stands out is drawn over the spread', () => {
  const lines = [line(0, [1, 2], [1, 2]), line(1, [1, 2], [3, 4])];
  const { data, curves } = drawingOf(lines, { isEach: false, rank: 1 });
  assert.deepEqual(
    curves.map(curve => curve.kind),
    ['mean', 'low', 'high', 'line']
  );
  assert.deepEqual(data[4], [3, 4]);
  assert.equal(curves[2]?.whose?.(2), 1);
  assert.deepEqual(drawingOf(lines, { isEach: true, rank: 1 }).data, [
    [1, 2],
    [1, 2],
    [3, 4]
  ]);
});

test('the place of x is that of the point before it', () => {
  assert.deepEqual(
    [0, 1, 2.5, 9].map(x => placeOf([1, 2, 3], x)),
    [-1, 0, 1, 2]
  );
});

test('numbers and clocks are short', () => {
  const told = [0, 0.123456, 12.3456, 1234.5, 1234567, 12345678, 1.2e-9, -0.00001, 1e300, NaN, -Infinity];
  const texts = ['0', '0.1235', '12.35', '1,235', '1,234,567', '1.23e7', '1.2e-9', '-1e-5', '1e300', 'nan', '-inf'];
  assert.deepEqual(told.map(numberText), texts);
  assert.deepEqual([0, 7.9, 65, 3725].map(clockText), ['0:00', '0:07', '1:05', '1:02:05']);
  assert.deepEqual([faded('rgb(1, 2, 3)', 0.5), faded('rgb(1, 2, 3)', 1), faded('color(x)', 0.5)], [
    'rgba(1, 2, 3,0.5)',
    'rgb(1, 2, 3)',
    'color(x)'
  ]);
});
