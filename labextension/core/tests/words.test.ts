/** Words for numbers, strangers' text, reports and the timeline. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lastWords, plain, reportText } from '../src/failure/report.js';
import { bytesText, countText, durationText, firstLine, ranksText, stepTimeText, visible } from '../src/common/text.js';
import { rowsOf } from '../src/timeline/bars.js';
import { SCENES } from './scenes.js';

test('numbers read as people write them', () => {
  assert.deepEqual([0, 0.42, 9.97, 65, 7380, 100_000].map(durationText), [
    '0 s',
    '0.4 s',
    '10 s',
    '1 min 05 s',
    '2 h 03 min',
    '1 d 3 h'
  ]);
  assert.deepEqual([0, 999, 1536, 80 * 2 ** 30].map(bytesText), ['0 B', '999 B', '1.5 KiB', '80.0 GiB']);
  assert.deepEqual([999, 12_480, 999_600, 4_200_000].map(countText), ['999', '12.5k', '1M', '4.2M']);
  assert.deepEqual([0.1184, 1.44, 125].map(stepTimeText), ['118 ms/step', '1.4 s/step', '2 min 05 s/step']);
  assert.deepEqual([[3], [0, 1], [7, 0, 1, 2, 3, 9]].map(ranksText), ['rank 3', 'ranks 0, 1', 'ranks 0-3, 7, 9']);
});

test('marks that would turn a line around, and controls, are shown instead of obeyed', () => {
  assert.equal(visible('a\u202eb\u0000c\u200bd\te\n'), 'a\\u202eb\\u0000c\\u200bd\te\n');
  assert.equal(visible('x'.repeat(20), 5), 'xxxxx…');
  assert.equal(firstLine('\n  \n  hello \nworld'), 'hello');
  assert.equal(plain('\u001b[31mred\u001b[0m \u001b]8;;http://x\u0007link\u001b]8;;\u0007'), 'red link');
});

test('a report tells root cause, values, last lines, the others and the versions', () => {
  const report = reportText(SCENES.failure!());
  const parts = [
    'Run 1126-101500-ab12cd (finetune-resnet50): failed\n',
    'Rank 2 failed first, 30 s after the start: ValueError: loss is nan at step 118\n',
    '  Cell In[12], line 8, in train\n',
    "  loss = tensor(nan, device='cuda:2', grad_fn=<MeanBackward0>)\n",
    'Hint: The loss became nan',
    'Last lines of rank 2:\n  epoch 0 | step 112',
    'Others:\n  rank 0: lost its peer, rank 2 · DistBackendError: Connection closed by peer [10.0.0.3]:43210\n  ranks 1, 3: ended\n',
    'Python 3.12.8, PyTorch 2.13.0, 4 ranks, host gpu-node-07\n',
    'As torchrun: torchrun --standalone'
  ];
  let at = 0;
  for (const part of parts) {
    const found = report.indexOf(part, at);
    assert.ok(found >= at, `${part} is missing or out of order in:\n${report}`);
    at = found;
  }
});

test('a report tells earlier rounds', () => {
  const run = SCENES.restart!();
  assert.match(
    reportText(run),
    /Earlier rounds:\n {2}Round 0 \(attempt 1\) after 14 s: rank 2 failed first: ValueError/
  );
});

test('the timeline has launch, rendezvous, rounds with causes, ranks and failures', () => {
  const run = SCENES.restart!();
  const rows = rowsOf(run.snapshot, run.now_ns);
  assert.deepEqual(
    rows.map(row => [row.title, row.bars.map(bar => bar.kind).join(), row.marks.length]),
    [
      ['run', 'launch,running', 0],
      ['round 0', 'rendezvous,failed', 1],
      ['round 1', 'rendezvous,running', 0],
      ...[0, 1, 2, 3].map(rank => [`rank ${rank}`, 'running', 0])
    ]
  );
  assert.equal(rows[1]!.bars[1]!.label, 'rank 2 failed: ValueError: loss is nan at step 118');
  assert.equal(rows[2]!.bars[0]!.detail, 'rendezvous of round 1: 1.5 s, 4 ranks');
});

test('many ranks are a row a node in the timeline', () => {
  const run = SCENES.nodes!();
  const titles = rowsOf(run.snapshot, run.now_ns).map(row => row.title);
  assert.deepEqual(titles, ['run', 'round', ...Array.from({ length: 8 }, (_, node) => `node ${node}`)]);
});

test('who stopped a run stands in its bar', () => {
  const run = SCENES.stopped!();
  assert.equal(rowsOf(run.snapshot, run.now_ns)[0]!.bars[1]!.label, 'stopped by the Stop button');
});

test('a failed rank’s last words come without the traceback that stands above them', () => {
  const run = SCENES.failure!();
  const root = run.snapshot.failures[0]!;
  const raised = ['[rank2]: Traceback (most recent call last):', '[rank2]:   File "x"', '[rank2]: ValueError: no'];
  run.tails.set(root.rank, [
    { stream: 'stdout', text: 'step 117' },
    { stream: 'stderr', text: 'a warning' },
    ...raised.map(text => ({ stream: 'stderr' as const, text })),
    { stream: 'stdout', text: 'step 118' }
  ]);
  assert.deepEqual(lastWords(run, root, 10), ['step 117', 'a warning', 'step 118']);
});
