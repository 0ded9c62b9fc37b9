/** A run's life as bars on one axis: what lasted from when to when, and why it ended. Pure: drawn by the timeline. */

import { isHere, lostNodeOf, nodeText, nodesText, goneText } from '../common/nodes.js';
import { type Round, type RunNode, type Snapshot, type Worker } from '../model.js';
import { attemptText, durationText, exitText, failureText, firstLine, plural, ranksText, stateText, visible } from '../common/text.js';

export interface Bar {
  start_ns: number;
  end_ns: number;
  kind: 'launch' | 'rendezvous' | 'running' | 'succeeded' | 'failed' | 'stopped' | 'ended' | 'stopping' | 'held';
  /** In the bar, where there is room. */
  label: string;
  /** Said in full when it is looked at. */
  detail: string;
  isOpen?: boolean;
}

export interface Mark {
  time_ns: number;
  detail: string;
  /** A node that came; what has no kind went wrong. */
  kind?: 'joined';
}

export interface Row {
  title: string;
  bars: Bar[];
  marks: Mark[];
}

/** More ranks than this are one row a node. */
const MAX_RANK_ROWS = 16;
/** Of more nodes than this those to which nothing happened are one row. */
const MAX_NODE_ROWS = 16;
/** A mark and a bar that are nearer to each other are one thing. */
const EARLY_NS = 5e8;

export function rowsOf(snapshot: Snapshot, now_ns: number): Row[] {
  if (!snapshot.created_ns) {
    return [];
  }
  const end_ns = snapshot.finished_ns || now_ns;
  return [
    runRow(snapshot, end_ns),
    ...snapshot.rounds.map(round => roundRow(round, snapshot, end_ns)),
    ...nodeRows(snapshot, end_ns),
    ...workerRows(snapshot, end_ns)
  ];
}

function runRow(snapshot: Snapshot, end_ns: number): Row {
  const { created_ns, state, text } = snapshot;
  const first = snapshot.rounds[0]?.started_ns || snapshot.started_ns || end_ns;
  const how = stateText(state);
  const why = state === 'stopped' && snapshot.stop_by ? `stopped by ${firstLine(snapshot.stop_by)}` : firstLine(text);
  const bars: Bar[] = [
    {
      start_ns: created_ns,
      end_ns: first,
      kind: 'launch',
      label: 'launch',
      detail: `launch: ${took(created_ns, first)}`
    },
    {
      start_ns: first,
      end_ns,
      kind: kindOf(state),
      label: why && state !== 'running' ? why : how,
      detail: `run: ${how} · ${took(created_ns, end_ns)}${why ? ` · ${why}` : ''}`,
      isOpen: !snapshot.finished_ns
    }
  ];
  return { title: 'run', bars: bars.filter(bar => bar.end_ns > bar.start_ns), marks: [] };
}

function kindOf(state: string): Bar['kind'] {
  const kinds: Record<string, Bar['kind']> = {
    succeeded: 'succeeded',
    failed: 'failed',
    lost: 'failed',
    stopped: 'stopped',
    stopping: 'stopping'
  };
  return kinds[state] ?? 'running';
}

function roundRow(round: Round, snapshot: Snapshot, end_ns: number): Row {
  const is_last = round.number === snapshot.round;
  const workers = is_last ? snapshot.workers : [];
  const started = workers.map(worker => worker.started_ns).filter(Boolean);
  const formed_ns = round.formed_ns || (started.length ? Math.min(...started) : 0);
  const until_ns = round.ended_ns || end_ns;
  const split_ns = Math.min(formed_ns || until_ns, until_ns);
  const title = snapshot.max_restarts || snapshot.rounds.length > 1 ? `round ${round.number}` : 'round';
  const attempt = attemptText(snapshot, round.attempt);
  const bars: Bar[] = [
    {
      start_ns: round.started_ns,
      end_ns: formed_ns ? split_ns : until_ns,
      kind: 'rendezvous',
      label: 'rendezvous',
      detail: `rendezvous of round ${round.number}: ${took(round.started_ns, split_ns)}${round.world_size ? `, ${plural(round.world_size, 'rank')}` : ''}${onNodes(round)}`,
      isOpen: !formed_ns && !round.ended_ns
    }
  ];
  if (formed_ns && until_ns > split_ns) {
    const cause = causeText(round, snapshot);
    bars.push({
      start_ns: split_ns,
      end_ns: until_ns,
      kind: { success: 'succeeded', failure: 'failed', stopped: 'stopped', membership: 'ended', '': 'running' }[
        round.cause
      ] as Bar['kind'],
      label: cause || 'running',
      detail: `round ${round.number}${attempt && `, ${attempt}`}: ${cause || 'running'} · ${took(split_ns, until_ns)}${onNodes(round)}`,
      isOpen: !round.ended_ns
    });
  }
  return { title, bars: bars.filter(bar => bar.end_ns > bar.start_ns), marks: round.failures.map(failureMark) };
}

function failureMark(failure: Round['failures'][number]): Mark {
  return {
    time_ns: failure.time_ns,
    detail: `rank ${failure.rank} failed: ${failureText(failure)}${failure.followed ? ` (${firstLine(failure.followed)})` : ''}`
  };
}

/** Which nodes took part, "" where there are none to tell apart. */
function onNodes({ nodes }: Round): string {
  return nodes?.length ? ` · on ${nodesText(nodes)}` : '';
}

/** Why a round ended, in words. */
function causeText(round: Round, snapshot: Snapshot): string {
  const root = round.failures[0];
  const lost = lostNodeOf(snapshot, root);
  if (round.cause && lost) {
    return `${nodeText(lost)} was lost`;
  }
  const words: Record<Round['cause'], string> = {
    '': '',
    success: 'succeeded',
    failure: root ? `rank ${root.rank} failed: ${failureText(root)}` : firstLine(round.text) || 'failed',
    membership: `the group’s membership changed${round.text ? `: ${firstLine(round.text)}` : ''}`,
    stopped: firstLine(round.text) || 'stopped'
  };
  return words[round.cause];
}

function workerRows(snapshot: Snapshot, end_ns: number): Row[] {
  const started = snapshot.workers.filter(worker => worker.started_ns);
  if (snapshot.nodes.length && started.length > MAX_RANK_ROWS) {
    return [];
  }
  if (started.length <= MAX_RANK_ROWS) {
    return started.map(worker => ({
      title: `rank ${worker.rank}`,
      bars: [workerBar(worker, end_ns), ...heldBars([worker], end_ns)],
      marks: marksOf(snapshot, [worker])
    }));
  }
  const nodes = [...new Set(started.map(worker => worker.node))].sort((a, b) => a - b);
  return nodes.map(node => {
    const members = started.filter(worker => worker.node === node);
    return {
      title: nodes.length > 1 ? `node ${node}` : plural(members.length, 'rank'),
      bars: [groupBar(members, end_ns), ...heldBars(members, end_ns)],
      marks: marksOf(snapshot, members)
    };
  });
}

/** A row for each node: when it was here, how its ranks are, when it was lost or joined late. */
function nodeRows(snapshot: Snapshot, end_ns: number): Row[] {
  const { nodes } = snapshot;
  const rows = nodes.map(node => ({ node, row: nodeRow(node, snapshot, end_ns) }));
  if (nodes.length <= MAX_NODE_ROWS) {
    return rows.map(({ row }) => row);
  }
  const calm = rows.filter(({ row }) => !row.marks.length).map(({ node }) => node);
  const members = snapshot.workers.filter(worker => worker.started_ns && calm.some(node => node.node === worker.node));
  const start_ns = Math.min(...calm.map(node => node.joined_ns));
  const label = members.length ? groupBar(members, end_ns).label : nodesText(calm.map(node => node.node));
  const detail = `${nodesText(calm.map(node => node.node))}: ${label} · ${took(start_ns, end_ns)}`;
  const kind = members.length ? groupBar(members, end_ns).kind : 'running';
  const bars: Bar[] = [{ start_ns, end_ns, kind, label, detail, isOpen: !snapshot.finished_ns }];
  const others = calm.length ? [{ title: plural(calm.length, 'node'), bars, marks: [] }] : [];
  return [...rows.filter(({ row }) => row.marks.length).map(({ row }) => row), ...others];
}

function nodeRow(node: RunNode, snapshot: Snapshot, end_ns: number): Row {
  const members = snapshot.workers.filter(worker => worker.node === node.node && worker.started_ns);
  const first = snapshot.rounds.find(round => round.formed_ns)?.formed_ns ?? end_ns;
  const name = nodeText(node);
  const bars: Bar[] = [];
  const marks: Mark[] = [];
  node.spans.forEach(([start_ns, until_ns], i) => {
    const isLast = i === node.spans.length - 1;
    const group = isLast && isHere(node) && members.length ? groupBar(members, end_ns) : undefined;
    const gone = isLast && !isHere(node) ? goneText(node, snapshot) : `${name} was lost`;
    const to_ns = until_ns || end_ns;
    const words = until_ns ? node.host : [node.host, group?.label].filter(Boolean).join(': ');
    bars.push({
      start_ns,
      end_ns: to_ns,
      kind: group?.kind ?? (until_ns ? 'ended' : 'running'),
      label: visible(words, 100),
      detail: `${name}: ${until_ns ? gone : (group?.label ?? 'here')} · ${took(start_ns, to_ns)}`,
      isOpen: !until_ns && !snapshot.finished_ns
    });
    if (start_ns > first + EARLY_NS || i > 0) {
      marks.push({ time_ns: start_ns, detail: `${name} ${i > 0 ? 'joined again' : 'joined'}`, kind: 'joined' });
    }
    if (until_ns) {
      marks.push({ time_ns: until_ns, detail: gone });
    }
  });
  const failed = members.length ? marksOf(snapshot, members).filter(mark => !mark.detail.includes('its node was lost')) : [];
  return { title: `node ${node.node}`, bars, marks: [...marks, ...failed] };
}

function workerBar(worker: Worker, end_ns: number): Bar {
  const until_ns = Math.max(worker.started_ns, worker.ended_ns || end_ns);
  const state = { ended: 'ended by the agent', held: 'running' }[worker.state as string] ?? stateText(worker.state);
  const words = worker.how && worker.state !== 'succeeded' ? visible(worker.how, 200) : exitText(worker);
  const how = [words === state ? '' : state, words].filter(Boolean).join(', ');
  return {
    start_ns: worker.started_ns,
    end_ns: until_ns,
    kind: worker.state === 'starting' || worker.state === 'held' ? 'running' : worker.state,
    label: how,
    detail: `rank ${worker.rank}: ${how} · ${took(worker.started_ns, until_ns)}`,
    isOpen: !worker.ended_ns
  };
}

/** When ranks waited to be looked at. */
function heldBars(workers: readonly Worker[], end_ns: number): Bar[] {
  return workers.flatMap(worker =>
    (worker.holds ?? []).map(([start_ns, until_ns]) => ({
      start_ns,
      end_ns: until_ns || end_ns,
      kind: 'held' as const,
      label: workers.length > 1 ? `rank ${worker.rank} held` : 'held',
      detail: `rank ${worker.rank} held · ${took(start_ns, until_ns || end_ns)}`,
      isOpen: !until_ns
    }))
  );
}

/** Many ranks in one bar: from the first start to the last end, in the worst of their states. */
function groupBar(workers: readonly Worker[], end_ns: number): Bar {
  const states = [...new Set(workers.map(worker => worker.state))];
  const worst = (['failed', 'running', 'held', 'starting', 'stopped', 'ended', 'succeeded'] as const).find(state =>
    states.includes(state)
  )!;
  const words = states.map(state => {
    const which = workers.filter(worker => worker.state === state).map(worker => worker.rank);
    return state === 'failed' ? `${ranksText(which)} failed` : `${which.length} ${stateText(state)}`;
  });
  const start_ns = Math.min(...workers.map(worker => worker.started_ns));
  const until_ns = Math.max(...workers.map(worker => worker.ended_ns || end_ns));
  const text = words.join(', ');
  return {
    start_ns,
    end_ns: until_ns,
    kind: worst === 'starting' || worst === 'held' ? 'running' : worst,
    label: text,
    detail: `${text} · ${took(start_ns, until_ns)}`,
    isOpen: workers.some(worker => !worker.ended_ns)
  };
}

function marksOf(snapshot: Snapshot, workers: readonly Worker[]): Mark[] {
  const ranks = new Set(workers.map(worker => worker.rank));
  return snapshot.failures.filter(failure => ranks.has(failure.rank) && failure.time_ns).map(failureMark);
}

function took(start_ns: number, end_ns: number): string {
  return durationText(Math.max(0, end_ns - start_ns) / 1e9);
}
