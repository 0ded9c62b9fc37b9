import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Feed } from './log_feed.js';
import { strip } from '../src/index.js';
import { matcherOf, type Query } from '../src/logs/search.js';

function query(text: string, more: Partial<Query> = {}) {
  return matcherOf({ text, isRegex: false, isCase: false, ...more });
}

function filled(): Feed {
  const feed = new Feed();
  feed.say(0, 'Epoch 1\nloss \x1b[31m0\x1b[0m.5\n');
  feed.say(1, 'epoch 1\nloss 0.25\n', { stream: 'stderr' });
  feed.say(0, 'done a.c\n');
  return feed;
}

test('a rank, a stream, or both', () => {
  const feed = filled();
  assert.deepEqual(feed.shown(feed.rows({ ranks: new Set([1]) })), ['1: epoch 1', '1: loss 0.25']);
  assert.deepEqual(feed.shown(feed.rows({ stderr: false })), ['0: Epoch 1', '0: loss 0.5', '0: done a.c']);
  assert.deepEqual(feed.shown(feed.rows({ ranks: new Set([0]), stdout: false })), []);
});

test('plain text is found without regard to case, also across colours', () => {
  const feed = filled();
  assert.deepEqual(feed.shown(feed.rows({}, query('EPOCH'))), ['0: Epoch 1', '1: epoch 1']);
  assert.deepEqual(feed.shown(feed.rows({}, query('Epoch', { isCase: true }))), ['0: Epoch 1']);
  assert.deepEqual(feed.shown(feed.rows({}, query('loss 0.5'))), ['0: loss 0.5']);
  assert.deepEqual(feed.shown(feed.rows({}, query('a.c'))), ['0: done a.c']);
  assert.deepEqual(feed.shown(feed.rows({}, query('abc'))), []);
  assert.deepEqual(feed.shown(feed.rows({}, query('5'))), ['0: loss 0.5', '1: loss 0.25']);
});

test('regular expressions see what is seen, line by line', () => {
  const feed = filled();
  assert.deepEqual(feed.shown(feed.rows({}, query('^loss 0\\.\\d{1}$', { isRegex: true }))), ['0: loss 0.5']);
  assert.deepEqual(feed.shown(feed.rows({}, query('e.*1$', { isRegex: true }))), ['0: Epoch 1', '1: epoch 1']);
  assert.throws(() => query('(', { isRegex: true }), SyntaxError);
});

test('plain search finds the same lines as a search line by line', () => {
  const feed = new Feed();
  const words = ['alpha', 'beta', 'gamma', 'aab', 'abab', ''];
  const lines = Array.from({ length: 3000 }, (_, line) => `${words[(line * 7) % 6]}${words[(line * 5) % 4]} ${line}`);
  feed.say(0, `${lines.join('\n')}\n`);
  for (const text of ['a', 'ab', 'abab', 'alphaalpha', 'gamma 1', '99', 'x']) {
    const expected = lines.filter(line => line.includes(text)).map(line => `0: ${line}`);
    assert.deepEqual(feed.shown(feed.rows({}, query(text))), expected, text);
  }
});

test('colours anywhere in a line change nothing about what is found, and are not found', () => {
  const feed = new Feed();
  const codes = ['\x1b[31m', '\x1b[0m', '\x1b[38;5;11m\x1b[1m', '\x1b]0;aab\x07', '', '', ''];
  let state = 7;
  const random = (below: number): number => (state = (state * 1103515245 + 12345) % 2147483648) % below;
  const lines = Array.from({ length: 2000 }, () =>
    Array.from({ length: 8 }, () => codes[random(7)]! + 'ab1m'[random(4)]!).join('')
  );
  feed.say(0, `${lines.join('\n')}\n`);
  for (const text of ['ab', 'aab', '31m', '1m', 'abab', 'b1a', 'm', 'aaaaa']) {
    const expected = lines.map(line => strip(line)).filter(line => line.includes(text));
    const got = feed.shown(feed.rows({}, query(text))).map(line => line.slice(3));
    assert.deepEqual(got, expected, text);
  }
});

test('lines that come later are found later', () => {
  const feed = filled();
  const rows = feed.rows({}, query('loss'));
  feed.say(1, 'loss 2\nother\n');
  feed.say(1, 'loss 3\n');
  assert.deepEqual(feed.shown(rows), ['0: loss 0.5', '1: loss 0.25', '1: loss 2', '1: loss 3']);
  assert.equal(rows.lines, 4);
});

test('what is no longer in memory counts as not searched', () => {
  const feed = new Feed(300_000);
  for (let line = 0; line < 20_000; line++) {
    feed.say(0, `line ${line} ${'.'.repeat(40)}\n`);
  }
  const rows = feed.rows({}, query('line'));
  assert.ok(rows.unseenRows > 0);
  assert.equal(rows.unseenRows + rows.count, 20_000);
});

test('equal lines of several ranks fold, and each rank keeps its order', () => {
  const feed = new Feed();
  for (const rank of [0, 1, 2, 3]) {
    feed.say(rank, `start\nnext\nI am ${rank}\n`);
  }
  for (const rank of [0, 1, 2, 3]) {
    feed.say(rank, 'next\n');
  }
  const rows = feed.rows({}, undefined, true);
  const own = ['0: I am 0', '1: I am 1', '2: I am 2', '3: I am 3'];
  assert.deepEqual(feed.shown(rows), ['4x 0: start', '4x 0: next', ...own, '4x 0: next']);
  assert.equal(rows.lines, 16);
});

test('a fold opens to its lines and closes again', () => {
  const feed = new Feed();
  feed.say(0, 'same\nlast\n');
  feed.say(1, 'same\n');
  const rows = feed.rows({}, undefined, true);
  rows.toggle(rows.at(0).row);
  assert.deepEqual(feed.shown(rows), ['2x 0: same', '0: same', '1: same', '0: last']);
  assert.deepEqual([rows.at(0).isUnfolded, rows.at(1).isMember, rows.at(3).isMember], [true, true, false]);
  assert.equal(rows.find(rows.at(3).row), 3);
  rows.toggle(rows.at(0).row);
  assert.deepEqual(feed.shown(rows), ['2x 0: same', '0: last']);
});

test('no fold for one rank that repeats itself, for other rounds and streams, or after a long time', () => {
  const feed = new Feed();
  feed.say(0, 'same\nsame\n');
  feed.say(1, 'same\n', { stream: 'stderr' });
  feed.say(2, 'same\n', { time_ns: 60e9 });
  feed.say(3, 'same\n', { round: 1 });
  const shown = feed.shown(feed.rows({}, undefined, true));
  assert.deepEqual(shown, ['0: same', '0: same', '1: same', '2: same', '<round 1>', '3: same']);
});
