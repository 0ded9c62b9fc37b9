/** A run of several nodes in words, from what the kernel really tells of one that loses a node and gains another. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import chunks from '../golden/chunks_nodes.json';
import saved from '../golden/saved_nodes.json';
import alone from '../golden/snapshot_nodes_alone.json';
import failed from '../golden/snapshot_nodes_failed.json';
import joined from '../golden/snapshot_nodes_joined.json';
import lost from '../golden/snapshot_nodes_lost.json';
import running from '../golden/snapshot_nodes_running.json';
import { badgeOf, goneText, hostsText, lostNodeOf, rankPlace } from '../src/common/nodes.js';
import { earlierText, rootTitle } from '../src/failure/report.js';
import { LogStore, openRun, savedSource } from '../src/index.js';
import type { Chunk, Part, RunNode, SavedRun, Snapshot } from '../src/index.js';
import { factsOf } from '../src/ranks/facts.js';
import { nodeGroups, olderText } from '../src/ranks/node.js';
import { summaryPieces } from '../src/ranks/words.js';
import { isSelected } from '../src/logs/scan.js';
import { snapshotOf } from '../src/run/shape.js';
import { rowsOf } from '../src/timeline/bars.js';
import { fakeRun } from './fake.js';
import { fakeNode, lostNode } from './scenes_nodes.js';

const of = (told: unknown): Snapshot => snapshotOf(told);

/** The ranks by node as the page groups them: `?` for a rank whose number nobody knows yet. */
function grouped(snapshot: Snapshot): string[] {
  const run = fakeRun({ ranks: 0 });
  run.snapshot = snapshot;
  return nodeGroups(factsOf(run), snapshot).groups.map(
    ({ index, members }) => `${index}: ${members.map(({ worker }) => (worker.rank < 0 ? '?' : worker.rank)).join(' ')}`
  );
}

test('what the kernel tells of nodes is taken whole', () => {
  for (const told of [lost, alone, joined, running, failed]) {
    assert.deepEqual(of(told).nodes, told.nodes);
    assert.deepEqual(of(told).rounds.map(round => round.nodes), told.rounds.map(round => round.nodes));
  }
});

test('ranks stand below their nodes; a node that joined has places for its ranks before they start', () => {
  assert.deepEqual(grouped(of(lost)), ['0: 0 1', '1: 2 3']);
  assert.deepEqual(grouped(of(alone)), ['0: 0 1', '1: ']);
  assert.deepEqual(grouped(of(joined)), ['0: 0 1', '1: ', '2: ? ?']);
  assert.deepEqual(grouped(of(running)), ['0: 0 1', '1: ', '2: 2 3']);
});

test('a lost node is named with the time and the reason, and with those of its ranks that went with it', () => {
  const snapshot = of(lost);
  const [, second] = snapshot.nodes;
  assert.equal(goneText(second!, snapshot), 'Node 1 (host babbage) was lost after 11 s: nothing was heard of it for 8 s');
  assert.deepEqual(badgeOf(second!, snapshot, snapshot.last_ns + 5e9), { kind: 'lost', text: 'lost 5 s ago' });
  assert.equal(lostNodeOf(snapshot, snapshot.failures[0])?.node, 1);
  assert.equal(rootTitle(snapshot, snapshot.failures[0]!), 'Node 1 (host babbage) was lost, 9.6 s after the start, with ranks 2, 3');
  assert.equal(summaryPieces(factsOf(withSnapshot(snapshot)), snapshot).map(piece => piece.text).join(' | '), '2 of 4 running | 2 failed | node 1 lost');
  assert.deepEqual(earlierText(of(alone)), ['Round 0 (attempt 1) after 11 s: node 1 (host babbage) was lost']);
});

test('a rank that failed is named with its node, and one of a single machine is not', () => {
  const snapshot = of(failed);
  assert.match(rootTitle(snapshot, snapshot.failures[0]!), /^Rank 3 \(node 2, local rank 1, host curie\) failed first, /);
  assert.equal(rankPlace(fakeRun().snapshot, { node: 0, local_rank: 1 }), '');
});

test('a late node is told as such, one of the beginning is not', () => {
  const snapshot = of(running);
  const badges = snapshot.nodes.map(node => badgeOf(node, snapshot, snapshot.last_ns)?.kind);
  assert.deepEqual(badges, [undefined, 'lost', 'joined']);
  assert.equal(hostsText(snapshot), 'ada, curie');
});

test('the timeline has a row for each node, with its loss and its coming as marks', () => {
  const rows = rowsOf(of(running), running.last_ns);
  assert.deepEqual(rows.map(row => row.title), [
    'run', 'round 0', 'round 1', 'round 2', 'node 0', 'node 1', 'node 2', 'rank 0', 'rank 1', 'rank 2', 'rank 3'
  ]);
  assert.deepEqual(rows[5]!.marks.map(mark => mark.detail), ['Node 1 (host babbage) was lost after 11 s: nothing was heard of it for 8 s']);
  assert.deepEqual(rows[6]!.marks.map(mark => [mark.kind, mark.detail]), [['joined', 'node 2 (host curie) joined']]);
  assert.deepEqual(rows[1]!.bars.map(bar => bar.label), ['rendezvous', 'node 1 (host babbage) was lost']);
  assert.match(rows[3]!.bars[1]!.detail, /^round 2, attempt 1 of 4: running · .* · on nodes 0, 2$/);
});

test('of dozens of nodes only those have rows of their own to which something happened', () => {
  const run = fakeRun({ ranks: 512, nodes: 64 });
  const nodes = Array.from({ length: 64 }, (_, node) => (node === 17 ? lostNode(17, 30) : fakeNode(node)));
  run.snapshot = { ...run.snapshot, nodes };
  assert.deepEqual(rowsOf(run.snapshot, run.now_ns).map(row => row.title), ['run', 'round', 'node 17', '63 nodes']);
});

test('nodes that went long ago are one line', () => {
  const run = fakeRun({ ranks: 2 });
  const nodes = [fakeNode(0), ...Array.from({ length: 9 }, (_, i) => lostNode(i + 1, i + 1))];
  const { groups, older } = nodeGroups(factsOf(run), { ...run.snapshot, nodes });
  assert.deepEqual(groups.map(group => group.index), [0, 6, 7, 8, 9]);
  assert.equal(olderText(older), '5 more nodes went before: nodes 1-5');
});

test('a line is found by the node it was written on, whatever the rank’s number was then', () => {
  const store = new LogStore({ nowMs: () => 0, changed: () => {}, read: () => Promise.reject(new Error('no')) });
  const bytes = Buffer.from(chunks.buffer_base64, 'base64');
  let at = 0;
  for (const chunk of chunks.message.chunks as Chunk[]) {
    if (chunk.kind === 'stdout' || chunk.kind === 'stderr') {
      store.take(chunk, bytes.subarray(at, at + chunk.size));
    }
    at += chunk.size;
  }
  const on = (node: number) =>
    store.files
      .filter(file => isSelected(file, { ranks: undefined, nodes: new Set([node]), stdout: true, stderr: true }))
      .map(file => `${file.round}/${file.rank}`);
  assert.deepEqual([on(1), on(2)], [['0/2', '0/3'], ['2/2', '2/3']]);
  assert.deepEqual(store.tail(3, 2).map(line => line.text), ['step 5 on curie', 'step 6 on curie']);
});

test('a saved run has its nodes, their lines and what they used', async () => {
  const data = openRun(savedSource(saved as unknown as SavedRun), saved.run_id);
  await new Promise<void>(done => {
    const off = data.onChange((changed: ReadonlySet<Part>) => {
      if (changed.has('usage')) {
        off();
        done();
      }
    });
  });
  const nodes: RunNode[] = data.snapshot.nodes;
  assert.deepEqual(nodes.map(node => node.state), ['joined', 'lost', 'joined']);
  assert.equal(data.usage.last(3)?.gpu_percent, 73);
  assert.equal(data.logs.last(3)?.text, 'step 6 on curie');
  data.dispose();
});

function withSnapshot(snapshot: Snapshot): ReturnType<typeof fakeRun> {
  const run = fakeRun({ ranks: 0 });
  run.snapshot = snapshot;
  return run;
}
