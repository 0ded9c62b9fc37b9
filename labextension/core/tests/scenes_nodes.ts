/** Runs of several nodes, as tests and screenshots want them. */

import type { RunNode, Snapshot } from '../src/model.js';
import { fakeFailure, fakeRound, fakeRun, S, START_NS, type FakeOptions, type FakeRun } from './fake.js';

const HOSTS = ['ada', 'babbage', 'curie', 'dirac'];
const SILENT = 'nothing was heard of it for 8 s';

export function fakeNode(node: number, changes: Partial<RunNode> = {}): RunNode {
  const joined_ns = START_NS + 0.05 * S;
  return {
    node,
    host: HOSTS[node] ?? `gpu-${String(node).padStart(3, '0')}`,
    address: `10.0.0.${node + 1}`,
    place: '',
    state: 'joined',
    joined_ns,
    lost_ns: 0,
    text: '',
    nproc: 2,
    gpus: 2,
    is_back: false,
    spans: [[joined_ns, 0]],
    ...changes
  };
}

/** A node that was lost `at_s` seconds after the start. */
export function lostNode(node: number, at_s: number, changes: Partial<RunNode> = {}): RunNode {
  const lost_ns = START_NS + at_s * S;
  const spans: RunNode['spans'] = [[START_NS + 0.05 * S, lost_ns]];
  return fakeNode(node, { state: 'lost', lost_ns, text: SILENT, spans, ...changes });
}

function withNodes(options: FakeOptions, changes: Partial<RunNode> = {}): FakeRun {
  const run = fakeRun(options);
  const count = options.nodes ?? 1;
  const nodes = Array.from({ length: count }, (_, node) => fakeNode(node, changes));
  const rounds = [fakeRound(0, { world_size: options.ranks, nodes: nodes.map(node => node.node) })];
  run.snapshot = { ...run.snapshot, nodes, rounds, host: 'laptop', min_nodes: 1, max_nodes: count + 2 };
  return run;
}

function onNode(run: FakeRun, from: number, to: number): void {
  const workers = run.snapshot.workers.map(w => (w.node === from ? { ...w, node: to } : w));
  run.snapshot = { ...run.snapshot, workers };
}

function regrouped(run: FakeRun, changes: Partial<Snapshot>): FakeRun {
  run.snapshot = { ...run.snapshot, ...changes };
  return run;
}

export const NODE_SCENES: Record<string, () => FakeRun> = {
  two_nodes: () => withNodes({ ranks: 4, nodes: 2, hasGpus: true }),
  node_lost: () => {
    const run = NODE_SCENES.two_nodes!();
    const lost_ns = START_NS + 30 * S;
    const workers = run.snapshot.workers.map(w =>
      w.node === 1 ? { ...w, state: 'failed' as const, ended_ns: lost_ns, how: 'its node was lost' } : w
    );
    const failures = [2, 3].map(rank =>
      fakeFailure(rank, {
        node: 1,
        local_rank: rank - 2,
        time_ns: lost_ns,
        exit_code: null,
        error_type: '',
        message: 'its node was lost',
        category: 'lost a node',
        reasons: [`Node 1 (babbage) was lost: ${SILENT}.`]
      })
    );
    const rounds = [{ ...run.snapshot.rounds[0]!, failures }];
    return regrouped(run, { workers, failures, rounds, root_rank: 2, nodes: [fakeNode(0), lostNode(1, 30)] });
  },
  node_alone: () => {
    const lost = NODE_SCENES.node_lost!().snapshot;
    const run = withNodes({ ranks: 2, nodes: 1, hasGpus: true });
    const first = { ...lost.rounds[0]!, ended_ns: START_NS + 31 * S, cause: 'membership' as const };
    const second = fakeRound(1, {
      attempt: 0,
      started_ns: START_NS + 31 * S,
      formed_ns: START_NS + 34 * S,
      world_size: 2,
      nodes: [0]
    });
    const workers = run.snapshot.workers.map(w => ({ ...w, round: 1, started_ns: START_NS + 34.2 * S }));
    return regrouped(run, { workers, round: 1, rounds: [first, second], nodes: lost.nodes });
  },
  node_joined: () => {
    const before = NODE_SCENES.node_alone!().snapshot;
    const run = NODE_SCENES.two_nodes!();
    onNode(run, 1, 2);
    const came_ns = START_NS + 36 * S;
    const nodes = [...before.nodes, fakeNode(2, { joined_ns: came_ns, spans: [[came_ns, 0]] })];
    const second = { ...before.rounds[1]!, ended_ns: START_NS + 37 * S, cause: 'membership' as const, text: 'node 2 joined' };
    const third = fakeRound(2, {
      attempt: 0,
      started_ns: START_NS + 37 * S,
      formed_ns: START_NS + 38 * S,
      world_size: 4,
      nodes: [0, 2]
    });
    const workers = run.snapshot.workers.map(w => ({ ...w, round: 2, started_ns: START_NS + 38.2 * S }));
    return regrouped(run, { workers, round: 2, rounds: [before.rounds[0]!, second, third], nodes });
  },
  node_back: () => {
    const run = NODE_SCENES.node_lost!();
    const back_ns = START_NS + 39 * S;
    const workers = run.snapshot.workers.map(w => ({ ...w, state: 'running' as const, ended_ns: 0, how: '' }));
    const spans: RunNode['spans'] = [...lostNode(1, 30).spans, [back_ns, 0]];
    const nodes = [fakeNode(0), lostNode(1, 30, { state: 'joined', lost_ns: 0, is_back: true, spans })];
    const rounds = run.snapshot.rounds.map(round => ({ ...round, failures: [] }));
    return regrouped(run, { workers, nodes, rounds, failures: [], root_rank: null });
  },
  too_few_nodes: () => {
    const run = NODE_SCENES.node_lost!();
    const finished_ns = START_NS + 33 * S;
    const peer = fakeFailure(0, {
      time_ns: START_NS + 24 * S,
      error_type: 'RuntimeError',
      message: 'Connection closed by peer [10.0.0.2]:43210',
      category: 'lost a peer'
    });
    const failures = [...run.snapshot.failures, peer];
    const workers = run.snapshot.workers.map(w =>
      w.node === 1 ? w : { ...w, state: (w.rank ? 'ended' : 'failed') as 'ended' | 'failed', ended_ns: finished_ns, exit_code: 1 }
    );
    const rounds = [{ ...run.snapshot.rounds[0]!, failures, ended_ns: finished_ns, cause: 'failure' as const }];
    const text = `Node 1 (babbage) was lost: ${SILENT}. The run needs at least 2 node(s), and 1 is left.`;
    const end = { state: 'failed' as const, finished_ns, text, category: 'lost a peer', min_nodes: 2, max_nodes: 2 };
    return regrouped(run, { workers, failures, rounds, ...end });
  },
  failure_on_node: () => {
    const run = NODE_SCENES.node_joined!();
    const finished_ns = START_NS + 42 * S;
    const root = fakeFailure(3, { node: 2, local_rank: 1, round: 2, time_ns: START_NS + 41 * S });
    const workers = run.snapshot.workers.map(w => ({
      ...w,
      state: (w.rank === 3 ? 'failed' : 'ended') as 'failed' | 'ended',
      ended_ns: finished_ns,
      exit_code: 1
    }));
    const rounds = run.snapshot.rounds.map(r =>
      r.number === 2 ? { ...r, failures: [root], ended_ns: finished_ns, cause: 'failure' as const } : r
    );
    return regrouped(run, { workers, rounds, failures: [root], root_rank: 3, state: 'failed', finished_ns });
  },
  many_nodes: () => {
    const run = withNodes({ ranks: 512, nodes: 64, hasGpus: true }, { nproc: 8, gpus: 8 });
    const lost_ns = START_NS + 30 * S;
    const workers = run.snapshot.workers.map(w =>
      w.node === 17 ? { ...w, state: 'failed' as const, ended_ns: lost_ns, how: 'its node was lost' } : w
    );
    const nodes = run.snapshot.nodes.map(node => (node.node === 17 ? lostNode(17, 30, { nproc: 8, gpus: 8 }) : node));
    return regrouped(run, { workers, nodes });
  }
};
