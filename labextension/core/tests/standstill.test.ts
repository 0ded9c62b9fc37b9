/** What a reader is told of a run that stands still: nothing moves, ranks are held; and of how ranks ended. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import standing from '../golden/snapshot_standing.json';
import stacks from '../golden/stacks.json';
import { waysText } from '../src/common/text.js';
import { reportText, verdictOf } from '../src/failure/report.js';
import { factsOf } from '../src/ranks/facts.js';
import { outcomeText, rankText, summaryPieces } from '../src/ranks/words.js';
import { snapshotOf, stackReportOf } from '../src/run/shape.js';
import { groupState, hangTitle, heldOf, sorted, stacksText } from '../src/standstill/words.js';
import { rowsOf } from '../src/timeline/bars.js';
import { fakeGroup, fakeReport, S, START_NS } from './fake.js';
import { SCENES } from './scenes.js';

test('the time without a sign of life grows, and is told in the past when the run is over', () => {
  const run = SCENES.hang!();
  const report = run.snapshot.hang!;
  assert.equal(hangTitle(run, report), 'Nothing has moved for 62 s');
  run.now_ns += 100 * S;
  assert.equal(hangTitle(run, report), 'Nothing has moved for 2 min 42 s');
  run.about = { ...run.about!, hang_after_s: 10 };
  run.set({ state: 'stopped', finished_ns: report.time_ns + 20 * S });
  assert.equal(hangTitle(run, report), 'Nothing moved for 30 s before the end');
});

test('of ranks that stand still while others move it is told which these are', () => {
  const run = SCENES.hang!();
  const stalled = (...groups: number[][]) =>
    fakeReport({ cause: 'stall', groups: [...groups.map(ranks => fakeGroup(ranks, { is_still: true })), fakeGroup([3])] });
  assert.equal(hangTitle(run, stalled([2])), 'Rank 2 has not moved for 62 s, others have');
  assert.equal(hangTitle(run, stalled([2], [0, 1])), 'Ranks 0-2 have not moved for 62 s, others have');
  run.set({ state: 'stopped', finished_ns: START_NS + 60 * S });
  assert.equal(hangTitle(run, stalled([2])), 'Rank 2 did not move for 80 s before the end');
});

test('the odd one out comes first however the groups came, and states are words', () => {
  const groups = [fakeGroup([0, 1]), fakeGroup([2], { is_odd: true }), fakeGroup([3], { state: 'stopped' })];
  assert.deepEqual(sorted(groups).map(group => group.ranks), [[2], [0, 1], [3]]);
  assert.deepEqual(
    ['stopped', 'stuck', 'silent', 'busy'].map(state => groupState(fakeGroup([0], { state }))),
    ['stopped (SIGSTOP)', 'stuck in the kernel', 'no stack to be had', 'busy']
  );
});

test('a copied report has all that the card shows', () => {
  const text = stacksText('Nothing has moved for 62 s', fakeReport());
  const parts = [
    'Nothing has moved for 62 s\nRanks 0, 1, 3 wait in all_reduce',
    'rank 2 (waiting): is in next(loader), Cell In[12], line 6\n  - 1 of its 2 DataLoader workers',
    '  File "Cell In[12]", line 6, in train\n    loss = model(next(batches)).mean()\n',
    'ranks 0, 1, 3 (waiting): waits in all_reduce, Cell In[12], line 9\n',
    'Rank 2 waits for its DataLoader'
  ];
  let at = 0;
  for (const part of parts) {
    const found = text.indexOf(part, at);
    assert.ok(found >= at, `${part} is missing or out of order in:\n${text}`);
    at = found;
  }
});

test('a rank at its exception comes with commands that name the run', () => {
  const [held, ...rest] = heldOf(SCENES.held!().snapshot);
  assert.equal(rest.length, 0);
  assert.equal(held!.title, 'Rank 2 is held at its exception');
  assert.deepEqual(held!.places, [[2, 'ValueError: loss is nan at step 118\nCell In[12], line 8, in train']]);
  assert.deepEqual(held!.commands, [
    { shown: '%elastic debug 1126-101500-ab12cd', copied: '%elastic debug 1126-101500-ab12cd' },
    { shown: '%elastic eval 1126-101500-ab12cd EXPR', copied: '%elastic eval 1126-101500-ab12cd ' }
  ]);
});

test('several held ranks are named together, and the commands name one of them', () => {
  const run = SCENES.held!();
  run.setWorker(3, { state: 'held', held: 'failure', held_text: 'KeyError: x' });
  const [held] = heldOf(run.snapshot);
  assert.equal(held!.title, 'Ranks 2, 3 are held at their exceptions');
  assert.equal(held!.commands[0]!.copied, '%elastic debug 1126-101500-ab12cd --rank 2');
});

test('a breakpoint is answered in the cell, one of a detached run by a command', () => {
  const run = SCENES.breakpoint!();
  const [held] = heldOf(run.snapshot);
  assert.deepEqual([held!.title, held!.commands], ['Rank 2 is at a breakpoint: answer in the cell', []]);
  const [alone] = heldOf({ ...run.snapshot, is_detached: true });
  assert.deepEqual(
    [alone!.title, alone!.commands[0]!.copied],
    ['Rank 2 is at a breakpoint', '%elastic debug 1126-101500-ab12cd']
  );
  assert.equal(heldOf(SCENES.four!().snapshot).length, 0);
});

test('while a rank is held or nothing moves, no time that is left is promised', () => {
  const words = (scene: string) => {
    const run = SCENES[scene]!();
    return summaryPieces(factsOf(run), run.snapshot).map(piece => piece.text);
  };
  assert.ok(words('four').some(text => text.endsWith('left')));
  assert.deepEqual(words('held'), ['3 of 4 running', '1 held', 'step 118–122 of 1000']);
  assert.ok(!words('hang').some(text => text.endsWith('left')));
});

test('a held rank says where it waits, and each rank how it ended', () => {
  const facts = (scene: string, rank: number) => factsOf(SCENES[scene]!())[rank]!;
  assert.equal(outcomeText(facts('held', 2)), 'ValueError: loss is nan at step 118');
  assert.match(rankText(facts('held', 2)), /^Rank 2: held, /);
  assert.equal(outcomeText(facts('ways', 3)), 'killed after 5 s');
  assert.match(rankText(facts('ways', 0)), /, saved and left by itself$/);
  assert.equal(outcomeText(facts('lost', 0)), '', 'nobody saw how the ranks of a lost run ended');
});

test('ways to the end are folded, in the plural where there are more', () => {
  assert.equal(waysText(SCENES.ways!().snapshot.workers), '3 saved and left by themselves, 1 killed after 5 s');
  assert.equal(waysText(SCENES.four!().snapshot.workers), '');
});

test('the timeline has a span for each time that a rank was held', () => {
  const run = SCENES.held!();
  run.setWorker(2, { holds: [[START_NS + 5 * S, START_NS + 9 * S], [START_NS + 20 * S, 0]] });
  const row = rowsOf(run.snapshot, run.now_ns).find(one => one.title === 'rank 2')!;
  assert.deepEqual(
    row.bars.map(bar => [bar.kind, bar.label, bar.detail, Boolean(bar.isOpen)]),
    [
      ['running', 'running', 'rank 2: running · 42 s', true],
      ['held', 'held', 'rank 2 held · 4.0 s', false],
      ['held', 'held', 'rank 2 held · 22 s', true]
    ]
  );
});

test('the verdict is the root’s own, else the run’s; a follower of a time-out does not give it', () => {
  const run = SCENES.verdict!();
  const root = run.snapshot.failures[0]!;
  assert.equal(verdictOf(run.snapshot, root)[0], 'out of host memory');
  assert.equal(verdictOf({ ...run.snapshot, category: 'timeout' }, { ...root, followed: 'the time was up' })[0], 'timeout');
  assert.equal(verdictOf(SCENES.timeout!().snapshot, undefined)[0], 'timeout');
});

test('an exception of the program’s own needs no reasons: its traceback says it', () => {
  const run = SCENES.failure!();
  const root = { ...run.snapshot.failures[0]!, category: 'user error', reasons: ['It raised ValueError.'] };
  assert.deepEqual(verdictOf(run.snapshot, root), ['user error', []]);
  assert.deepEqual(verdictOf(run.snapshot, { ...root, error_type: 'SystemExit' })[1], root.reasons);
});

test('a copied failure report has the verdict with its reasons', () => {
  assert.match(reportText(SCENES.verdict!()), /\nCause: out of host memory\n {2}- The cgroup counted 1 OOM kill/);
  assert.match(reportText(SCENES.timeout!()), /\nCause: timeout\n {2}- The run lasted longer/);
});

test('what the kernel writes of a standstill is what is drawn', () => {
  const snapshot = snapshotOf(standing);
  const bare = (report: unknown) => JSON.parse(JSON.stringify(report, (key, value) => (key === 'values' ? undefined : value)));
  assert.deepEqual(snapshot.hang, bare(standing.hang));
  assert.deepEqual(snapshot.workers[2]!.holds, standing.workers[2]!.holds);
  assert.equal(snapshot.workers[2]!.held_text, standing.workers[2]!.held_text);
  assert.equal(heldOf(snapshot)[0]!.title, 'Rank 2 is held at its exception');
  assert.deepEqual(stackReportOf(stacks.report), bare(stacks.report));
});

test('a report that is none, or only half one, breaks nothing', () => {
  assert.equal(stackReportOf(null), undefined);
  assert.equal(stackReportOf({ groups: 3 }), undefined);
  const half = stackReportOf({ headline: 7, groups: [null, { ranks: ['x', 1], frames: [3], notes: [4, 'n'] }] })!;
  assert.deepEqual([half.headline, half.groups.map(group => group.ranks), half.groups[1]!.notes], ['', [[], [1]], ['n']]);
  const told = { workers: [{ held: 'odd', holds: [[1], [1, 2], 3], state: 'held' }], reasons: 'x', hang: [] };
  const snapshot = snapshotOf(told);
  assert.deepEqual([snapshot.workers[0]!.held, snapshot.workers[0]!.holds], ['failure', [[1, 2]]]);
  assert.deepEqual([snapshot.reasons, snapshot.hang], [[], null]);
});
