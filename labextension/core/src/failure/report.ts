/** A run's failure as plain text, as one pastes it into a bug report. Pure. */

import { goneText, hostsText, lostNodeOf, nodeText, rankPlace } from '../common/nodes.js';
import type { RunData } from '../data.js';
import type { Failure, Snapshot } from '../model.js';
import { attemptText, durationText, exitText, failureText, firstLine, plural, ranksText, stateText, visible, waysText } from '../common/text.js';

const TAIL_LINES = 10;
const TAIL_READ_LINES = 300;

export function reportText(data: RunData): string {
  const { snapshot, about } = data;
  const root = snapshot.failures[0];
  const lines = [
    `Run ${snapshot.run_id}${snapshot.name ? ` (${visible(snapshot.name, 200)})` : ''}: ${stateText(snapshot.state)}`,
    ...(snapshot.text && (!root || root.followed || lostNodeOf(snapshot, root)) ? [visible(snapshot.text, 20_000)] : []),
    ...(root ? rootLines(data, root) : verdictLines(snapshot.category, snapshot.reasons)),
    ...otherLines(snapshot),
    ...nodeLines(snapshot),
    ...earlierLines(snapshot),
    '',
    versionsText(snapshot),
    ...(about?.torchrun ? [`As torchrun: ${visible(about.torchrun, 4000)}`] : []),
    ...(about?.dir ? [`Run folder: ${visible(about.dir, 1000)}`] : [])
  ];
  return `${lines.join('\n')}\n`;
}

/** `rank 2 failed first, after 12 s`. */
export function rootTitle(snapshot: Snapshot, root: Failure): string {
  const round = snapshot.rounds.find(r => r.number === root.round);
  const start_ns = round?.formed_ns || round?.started_ns || snapshot.started_ns || snapshot.created_ns;
  const after =
    start_ns && root.time_ns > start_ns ? `, ${durationText((root.time_ns - start_ns) / 1e9)} after the start` : '';
  const attempt = attemptText(snapshot, round?.attempt ?? snapshot.attempt);
  const lost = lostNodeOf(snapshot, root);
  if (lost) {
    const ranks = snapshot.failures.filter(f => f.node === root.node).map(f => f.rank);
    const name = nodeText(lost);
    return `${name[0]!.toUpperCase()}${name.slice(1)} was lost${after}, with ${ranksText(ranks)}`;
  }
  return `Rank ${root.rank}${rankPlace(snapshot, root)} failed first${after}${attempt && ` (${attempt})`}`;
}

function rootLines(data: RunData, root: Failure): string[] {
  const { snapshot } = data;
  const lines = [`${rootTitle(snapshot, root)}: ${failureText(root)}`];
  const exit = exitText(root);
  if (exit) {
    lines.push(`The process ended: ${exit} (pid ${root.pid})`);
  }
  lines.push(...verdictLines(...verdictOf(snapshot, root)));
  lines.push('', ...(root.traceback.trim() ? [visible(root.traceback.trimEnd(), 100_000)] : frameLines(root)));
  for (const frame of root.frames.filter(f => f.values && Object.keys(f.values).length)) {
    lines.push('', `Values in ${visible(frame.name, 200)} (${visible(frame.file, 200)}, line ${frame.line}):`);
    lines.push(
      ...Object.entries(frame.values!).map(
        ([name, value]) => `  ${visible(name, 100)} = ${visible(String(value), 500)}`
      )
    );
  }
  if (root.hint) {
    lines.push('', `Hint: ${visible(root.hint, 2000)}`);
  }
  const tail = lastWords(data, root, TAIL_LINES);
  if (tail.length) {
    lines.push('', `Last lines of rank ${root.rank}:`, ...tail.map(line => `  ${line}`));
  }
  return lines;
}

/** What kind of failure it was, and the evidence: the rank's own, else the run's. */
export function verdictOf(snapshot: Snapshot, root: Failure | undefined): [category: string, reasons: readonly string[]] {
  const own = root?.category && !(root.followed && snapshot.category) ? root : snapshot;
  if (lostNodeOf(snapshot, root)) {
    return [root!.category, []]; // the title and the run's words say it
  }
  // Of an exception of the program's own the traceback says it all.
  const isOwn = own === root && root.category === 'user error' && root.error_type && root.error_type !== 'SystemExit';
  return [own.category ?? '', isOwn ? [] : (own.reasons ?? [])];
}

function verdictLines(category: string, reasons: readonly string[]): string[] {
  return [...(category ? [`Cause: ${visible(category, 200)}`] : []), ...reasons.map(reason => `  - ${visible(reason, 2000)}`)];
}

function frameLines(failure: Failure): string[] {
  return failure.frames.flatMap(f => [
    `  File "${visible(f.file, 400)}", line ${f.line}, in ${visible(f.name, 200)}`,
    `    ${visible(f.text.trim(), 500)}`
  ]);
}

/** One line each of those that failed, too. */
export function otherText(failure: Failure): string {
  const followed = failure.followed ? `${firstLine(failure.followed)} · ` : '';
  return `rank ${failure.rank}: ${followed}${failureText(failure)}`;
}

function otherLines(snapshot: Snapshot): string[] {
  const failed = new Set(snapshot.failures.map(failure => failure.rank));
  const rest = snapshot.workers.filter(worker => !failed.has(worker.rank));
  const states = [...new Set(rest.map(worker => worker.state))];
  const lines = snapshot.failures.slice(1).map(failure => `  ${otherText(failure)}`);
  lines.push(
    ...states.map(state => `  ${ranksText(rest.filter(w => w.state === state).map(w => w.rank))}: ${stateText(state)}`)
  );
  const ways = waysText(snapshot.workers);
  if (ways) {
    lines.push(`  how they ended: ${ways}`);
  }
  return lines.length ? ['', 'Others:', ...lines] : [];
}

/** One line of a round that another one followed. */
export function earlierText(snapshot: Snapshot): string[] {
  return snapshot.rounds
    .filter(round => round.number < snapshot.round && (round.failures.length || round.cause === 'membership'))
    .map(round => {
      const root = round.failures[0];
      const lost = lostNodeOf(snapshot, root);
      const why = lost
        ? `${nodeText(lost)} was lost`
        : root
        ? `rank ${root.rank} failed first: ${failureText(root)}`
        : `the group’s membership changed${round.text.trim() ? `: ${firstLine(round.text)}` : ''}`;
      const took =
        round.ended_ns > round.started_ns ? ` after ${durationText((round.ended_ns - round.started_ns) / 1e9)}` : '';
      return `Round ${round.number} (attempt ${round.attempt + 1})${took}: ${why}`;
    });
}

function nodeLines(snapshot: Snapshot): string[] {
  const gone = snapshot.nodes.filter(node => node.state !== 'joined').map(node => `  ${goneText(node, snapshot)}`);
  return gone.length ? ['', 'Nodes that are gone:', ...gone] : [];
}

function earlierLines(snapshot: Snapshot): string[] {
  const lines = earlierText(snapshot);
  return lines.length ? ['', 'Earlier rounds:', ...lines.map(line => `  ${line}`)] : [];
}

function versionsText(snapshot: Snapshot): string {
  const versions = [snapshot.python && `Python ${snapshot.python}`, snapshot.torch && `PyTorch ${snapshot.torch}`];
  const where = [`${plural(snapshot.world_size, 'rank')}`, hostsText(snapshot) ? `hosts ${hostsText(snapshot)}` : snapshot.host && `host ${snapshot.host}`];
  return visible([...versions, ...where].filter(Boolean).join(', '), 500);
}

/** What a rank wrote before it failed: without the traceback, which stands above. */
export function lastWords(data: RunData, root: Failure, count: number): string[] {
  const lines = data.logs.tail(root.rank, TAIL_READ_LINES).map(line => ({ ...line, text: plain(line.text) }));
  const starts = lines.map(line => line.stream === 'stderr' && line.text.includes('Traceback (most recent call last)'));
  const end = root.error_type ? starts.lastIndexOf(true) : -1;
  const said = end < 0 ? lines : lines.filter((line, i) => i < end || line.stream === 'stdout');
  return said.slice(-count).map(line => line.text);
}

/** A log line without its colours. */
export function plain(text: string): string {
  // eslint-disable-next-line no-control-regex
  return visible(text.replace(/\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?/g, ''), 2000);
}
