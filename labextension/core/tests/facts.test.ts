/** Who stands out among the ranks: a false alarm costs as much trust as a missed one. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { factsOf } from '../src/ranks/facts.js';
import { summaryPieces } from '../src/ranks/words.js';
import { fakeRun, type FakeRun } from './fake.js';
import { SCENES } from './scenes.js';

const S = 1e9;
const slow = (run: FakeRun) =>
  factsOf(run)
    .filter(fact => fact.slow)
    .map(fact => [fact.worker.rank, fact.slow]);
const silent = (run: FakeRun) =>
  factsOf(run)
    .filter(fact => fact.silent)
    .map(fact => [fact.worker.rank, fact.silent]);
const line = (run: FakeRun) =>
  summaryPieces(factsOf(run), run.snapshot)
    .map(piece => piece.text)
    .join(' | ');

function write(run: FakeRun, rank: number, ago_s: number): void {
  run.lastLines.set(rank, { stream: 'stdout', text: 'x', time_ns: run.now_ns - ago_s * S, bar: undefined });
}

function step(run: FakeRun, rank: number, at: number, step_s?: number): void {
  run.progresses.set(rank, { step: at, total: 1000, time_ns: run.now_ns, step_s });
}

test('ranks of about one speed: nobody is called slow', () => {
  assert.deepEqual(slow(fakeRun()), []);
});

test('a rank whose steps take 1.8 times as long is the slowest, by that number', () => {
  const run = fakeRun();
  [0, 1, 3].forEach(rank => step(run, rank, 120, 0.25));
  step(run, 2, 118, 0.45);
  assert.deepEqual(slow(run), [[2, 'slowest: 1.8x the median step']]);
});

test('steps of some milliseconds differ by chance', () => {
  const run = fakeRun();
  [0, 1, 3].forEach(rank => step(run, rank, 120, 0.001));
  step(run, 2, 120, 0.003);
  assert.deepEqual(slow(run), []);
});

test('without step times, the one that is far behind is the slowest', () => {
  const run = fakeRun();
  [0, 1, 3].forEach(rank => step(run, rank, 120));
  step(run, 2, 90);
  assert.deepEqual(slow(run), [[2, 'slowest: 30 steps behind']]);
});

test('one step behind is no news', () => {
  const run = fakeRun();
  [0, 1, 3].forEach(rank => step(run, rank, 120));
  step(run, 2, 119);
  assert.deepEqual(slow(run), []);
});

test('a single rank is never slow nor silent', () => {
  const run = fakeRun({ ranks: 1 });
  write(run, 0, 500);
  run.progresses.clear();
  assert.deepEqual([slow(run), silent(run)], [[], []]);
});

test('a rank that is silent for long while others write is marked, with how long', () => {
  const run = fakeRun({ hasProgress: false });
  [0, 1, 3].forEach(rank => write(run, rank, 1));
  write(run, 2, 42);
  assert.deepEqual(silent(run), [[2, 'silent for 42 s']]);
});

test('nobody is marked while all are silent, or where only one rank speaks at all', () => {
  const run = fakeRun({ hasProgress: false });
  [0, 1, 2, 3].forEach(rank => write(run, rank, 300 + rank));
  assert.deepEqual(silent(run), []);
  write(run, 0, 1);
  assert.deepEqual(silent(run), []);
});

test('ten seconds are not long', () => {
  const run = fakeRun({ hasProgress: false });
  [0, 1, 3].forEach(rank => write(run, rank, 0.1));
  write(run, 2, 9);
  assert.deepEqual(silent(run), []);
});

function lines(run: FakeRun, ...counts: number[]): void {
  run.logs.lineCount = rank => counts[rank ?? 0]!;
}

test('where rank 0 alone tells of all, the quiet ones are not called silent', () => {
  const two = fakeRun({ ranks: 2, hasProgress: false });
  write(two, 0, 0.1);
  write(two, 1, 42);
  assert.deepEqual(silent(two), []);
  const loud = fakeRun({ hasProgress: false });
  [0, 1, 2].forEach(rank => write(loud, rank, 0.1));
  write(loud, 3, 42);
  lines(loud, 200, 200, 200, 2);
  assert.deepEqual(silent(loud), []);
});

test('of two ranks that report, one that stops is silent', () => {
  const run = fakeRun({ ranks: 2, hasProgress: false });
  [0, 1].forEach(rank => write(run, rank, 60));
  step(run, 0, 120, 0.25);
  step(run, 1, 50, 0.25);
  run.progresses.get(1)!.time_ns = run.now_ns - 30 * S;
  assert.deepEqual(silent(run), [[1, 'silent for 30 s']]);
});

test('a rank that is slow by nature has time for its step', () => {
  const run = fakeRun({ ranks: 2, hasProgress: false });
  [0, 1].forEach(rank => write(run, rank, 60));
  step(run, 0, 120, 0.25);
  step(run, 1, 50, 8);
  run.progresses.get(1)!.time_ns = run.now_ns - 30 * S;
  assert.deepEqual(silent(run), []);
});

test('one that stands while all others are done is silent, and nobody says how long it will take', () => {
  const run = fakeRun();
  [0, 1, 2].forEach(rank => run.setWorker(rank, { state: 'succeeded', ended_ns: run.now_ns - 40 * S }));
  write(run, 3, 41);
  run.progresses.get(3)!.time_ns = run.now_ns - 41 * S;
  assert.deepEqual(silent(run), [[3, 'silent for 41 s']]);
  assert.doesNotMatch(line(run), /left/);
});

test('the last rank is not called silent at once when it stopped as the others ended', () => {
  const run = fakeRun();
  [0, 1, 2].forEach(rank => run.setWorker(rank, { state: 'succeeded', ended_ns: run.now_ns - 20 * S }));
  const told = (ago_s: number) => {
    write(run, 3, ago_s);
    run.progresses.get(3)!.time_ns = run.now_ns - ago_s * S;
    return silent(run).length;
  };
  assert.deepEqual([told(21), told(31)], [0, 1], 'it stood already while they went on');
});

test('after its last step a rank may take its time', () => {
  const run = fakeRun({ ranks: 2 });
  [0, 1].forEach(rank => write(run, rank, 60));
  run.progresses.set(1, { step: 1000, total: 1000, time_ns: run.now_ns - 60 * S, step_s: 0.1 });
  assert.deepEqual(silent(run), []);
});

test('what a rank wrote and reported before a restart is not its news', () => {
  const run = fakeRun();
  run.setWorker(1, { round: 1, started_ns: run.now_ns - 0.05 * S });
  const fact = factsOf(run)[1]!;
  assert.deepEqual([fact.last, fact.progress], [undefined, undefined]);
});

test('a rank that has ended uses nothing', () => {
  const run = fakeRun();
  run.setWorker(1, { state: 'succeeded', ended_ns: run.now_ns });
  assert.equal(factsOf(run)[1]!.usage, undefined);
});

test('a rank that reports is not silent, though it prints nothing', () => {
  const run = fakeRun();
  [0, 1, 3].forEach(rank => write(run, rank, 1));
  write(run, 2, 42);
  step(run, 2, 120);
  assert.deepEqual(silent(run), []);
});

test('the line above tells who runs, how far, how long yet, and who is slow', () => {
  assert.equal(
    line(SCENES.four!()),
    '4 of 4 running | step 117–120 of 1000 | about 6 min 29 s left | slowest rank 2 (1.8x the median step)'
  );
  assert.equal(line(SCENES.failure!()), '2 of 4 failed | 2 ended | step 118–122 of 1000');
  assert.equal(line(SCENES.succeeded!()), '4 of 4 succeeded | step 1000 of 1000');
});

test('before ranks are there, as many places are kept as were asked for', () => {
  const facts = factsOf(SCENES.starting!());
  assert.deepEqual(
    facts.map(fact => [fact.worker.rank, fact.worker.state]),
    [0, 1, 2, 3].map(rank => [rank, 'starting'])
  );
});

test('a run for which no number was given just waits', () => {
  const run = SCENES.starting!();
  run.snapshot = { ...run.snapshot, nproc: 'auto' };
  assert.equal(line(run), 'Waiting for the ranks…');
});

test('ranks that start one after another take the places that were kept for them', () => {
  const run = SCENES.starting!();
  const [, second] = fakeRun().snapshot.workers;
  run.snapshot = { ...run.snapshot, workers: [second!] };
  assert.deepEqual(
    factsOf(run).map(fact => fact.worker.state),
    ['starting', 'running', 'starting', 'starting']
  );
});
