import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Feed } from './log_feed.js';
import { Page, type Mark } from '../src/logs/page.js';

test('lines of all ranks stand in the order in which they came', () => {
  const feed = new Feed();
  feed.say(0, 'a\nb\n');
  feed.say(1, 'c\n');
  feed.say(0, 'd\n', { stream: 'stderr' });
  assert.deepEqual(feed.all(), ['0: a', '0: b', '1: c', '0: d']);
  assert.equal(feed.store.lineCount(), 4);
  assert.equal(feed.store.lineCount(0), 3);
});

test('a line that was cut on the way is whole, even inside a character', () => {
  const feed = new Feed();
  const bytes = new TextEncoder().encode('grüße\nnext');
  for (const byte of bytes) {
    feed.say(0, Uint8Array.of(byte));
  }
  assert.deepEqual(feed.all(), ['0: grüße', '0> next']);
  feed.say(0, ' line\n');
  assert.deepEqual(feed.all(), ['0: grüße', '0: next line']);
});

test('the rest of a line that is only on its way is not shown as a line of its own', () => {
  const feed = new Feed();
  feed.say(0, 'half');
  assert.deepEqual(feed.store.live(), []);
  assert.equal(feed.store.isLiveDue, true);
  feed.now += 200;
  assert.equal(feed.store.live().length, 1);
});

test('a bar is drawn in place, and its thousand states cost one line', () => {
  const feed = new Feed();
  for (let step = 0; step <= 1000; step++) {
    feed.say(0, `\r${step}/1000`, { stream: 'stderr' });
  }
  assert.equal(feed.store.live().length, 1);
  assert.deepEqual(feed.all(), ['0> 1000/1000']);
  feed.say(0, '\n', { stream: 'stderr' });
  assert.deepEqual(feed.all(), ['0: 1000/1000']);
  assert.equal((feed.store.book.parts[0] as Page).size, '1000/1000\n'.length);
});

test('bars that end in a carriage return, and CR LF, keep their text', () => {
  const feed = new Feed();
  feed.say(0, '10%\r20%\r');
  assert.deepEqual(feed.all(), ['0> 20%']);
  feed.say(0, '\r\nwindows\r\nmore\r\n');
  assert.deepEqual(feed.all(), ['0: 20%', '0: windows', '0: more']);
});

test('nested bars do not fill the log', () => {
  const feed = new Feed();
  feed.say(0, '\router 0/2');
  for (let step = 0; step < 100; step++) {
    feed.say(0, `\n\rinner ${step}/100\x1b[A`);
  }
  assert.deepEqual(feed.all(), ['0: outer 0/2', '0> inner 99/100']);
});

test('a line of 50 MB costs 64 kB, and the next line is right', () => {
  const feed = new Feed();
  const part = new Uint8Array(1_000_000).fill(120);
  for (let mb = 0; mb < 50; mb++) {
    feed.store.take({ ...AT, offset: mb * 1e6, size: 1e6 }, part);
  }
  feed.store.take({ ...AT, offset: 50e6, size: 6 }, new TextEncoder().encode('\nnext\n'));
  const row = feed.store.row(0);
  assert.ok(row.kind === 'line');
  assert.deepEqual([row.bytes?.length, row.more], [65_536, 50e6 - 65_536]);
  assert.equal(feed.text(1), '0: next');
  assert.ok(feed.store.book.heldBytes < 1e6);
});

const AT = { file: 'f', kind: 'stdout' as const, node: 0, round: 0, local_rank: 0, rank: 0, time_ns: 1, skipped: 0 };

test('a new round is marked once, and ends what the last left unfinished', () => {
  const feed = new Feed();
  feed.say(0, 'one\nhalf');
  feed.say(1, 'two\n');
  feed.say(0, 'again\n', { round: 1 });
  feed.say(1, 'again\n', { round: 1 });
  assert.deepEqual(feed.all(), ['0: one', '1: two', '0: half', '<round 1>', '0: again', '1: again']);
});

test('what was skipped is a row, and is filled in where it belongs', async () => {
  const feed = new Feed();
  feed.say(0, 'a\n');
  feed.say(1, 'x\n');
  feed.say(0, 'd\n', { skipped: 'b\nc\n' });
  assert.deepEqual(feed.all(), ['0: a', '1: x', '<gap 4>', '0: d']);
  await feed.store.fill(feed.store.book.parts.find(part => !(part instanceof Page)) as Mark);
  assert.deepEqual(feed.all(), ['0: a', '1: x', '0: b', '0: c', '0: d']);
  assert.equal(feed.store.lineCount(0), 4);
});

test('a gap that cannot be read stays, and says why', async () => {
  const feed = new Feed();
  feed.say(0, 'd\n', { skipped: 'b\nc\n' });
  feed.files.set('0/0/0/stdout', new Uint8Array());
  const gap = feed.store.book.parts[0] as Mark;
  await feed.store.fill(gap);
  assert.match(gap.error, /shorter/);
  assert.equal(gap.isReading, false);
});

async function settled(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) {
    await Promise.resolve();
  }
}

test('above the cap the oldest bytes go, and come back where they are looked at', async () => {
  const feed = new Feed(1_000_000);
  for (let batch = 0; batch < 60; batch++) {
    for (const rank of [0, 1]) {
      const lines = Array.from(
        { length: 500 },
        (_, line) => `rank ${rank} line ${batch * 500 + line} ${'.'.repeat(20)}`
      );
      feed.say(rank, `${lines.join('\n')}\n\rbar ${batch}\r\n`);
    }
  }
  assert.ok(feed.store.book.heldBytes <= 1_000_000);
  assert.ok(feed.store.book.droppedBytes > 500_000);
  assert.equal(feed.text(3), '<waiting>');
  await settled();
  assert.equal(feed.text(3), `0: rank 0 line 3 ${'.'.repeat(20)}`);
  assert.equal(feed.text(500), '0: bar 0');
  assert.equal(feed.text(501), `1: rank 1 line 0 ${'.'.repeat(20)}`);
  assert.ok(feed.changes > 0, 'the view is told');
});

test('a file that was cut off says so instead of waiting for ever', async () => {
  const feed = new Feed(300_000);
  for (let line = 0; line < 20_000; line++) {
    feed.say(0, `line ${line} ${'.'.repeat(40)}\n`);
  }
  feed.files.set('0/0/0/stdout', new Uint8Array());
  feed.text(0);
  await settled();
  const row = feed.store.row(0, false);
  assert.ok(row.kind === 'line');
  assert.match(row.error, /shorter/);
});

test('the last line is whole, though its words came one by one', () => {
  const feed = new Feed();
  feed.say(0, 'step');
  feed.say(0, ' 52');
  feed.say(0, ' loss 0.5\n');
  assert.equal(feed.store.last(0)?.text, 'step 52 loss 0.5');
  feed.say(0, 'step');
  assert.equal(feed.store.last(0)?.text, 'step 52 loss 0.5');
  feed.now += 500;
  assert.equal(feed.store.last(0)?.text, 'step', 'a prompt that waits is shown');
});

test('the last line is the unfinished one, else the last that is no blank; a bar outlives prints beside it', () => {
  const feed = new Feed();
  assert.equal(feed.store.last(0), undefined);
  feed.say(0, 'first\n\n  \n', { time_ns: 1 });
  assert.deepEqual(feed.store.last(0)?.text, 'first');
  feed.say(0, '\rtrain:  42%|####      | 42/100 [00:01<00:02, 30it/s]', { stream: 'stderr', time_ns: 2 });
  assert.equal(feed.store.last(0)?.bar?.fraction, 0.42);
  feed.say(0, '\x1b[31mloss\x1b[0m 1\n', { time_ns: 3 });
  assert.equal(feed.store.last(0)?.text, 'loss 1');
  assert.equal(feed.store.last(0)?.bar?.label, 'train');
});

test('the tail of a rank has both streams as they came', () => {
  const feed = new Feed();
  feed.say(0, 'a\nb\n');
  feed.say(1, 'other\n');
  feed.say(0, 'error\n', { stream: 'stderr' });
  feed.say(0, 'half');
  assert.deepEqual(feed.store.tail(0, 3), [
    { stream: 'stdout', text: 'b' },
    { stream: 'stderr', text: 'error' },
    { stream: 'stdout', text: 'half' }
  ]);
});

test('broken UTF-8 and NUL bytes are only text', () => {
  const feed = new Feed();
  feed.say(0, Uint8Array.of(0xff, 0xfe, 0, 0xc3, 10, 0x41, 10));
  assert.deepEqual(feed.all(), ['0: \ufffd\ufffd\\x00\ufffd', '0: A']);
});
