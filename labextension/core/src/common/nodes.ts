/** The nodes of a run in words: which rank is where, who was lost and why. Pure. A run of this machine alone has none. */

import type { Failure, RunNode, Snapshot, Worker } from '../model.js';
import { isFinal } from '../model.js';
import { durationText, elapsedText, firstLine, plural, visible } from './text.js';

const MAX_HOSTS = 3;
/** The verdict on ranks whose node was lost. */
const LOST_NODE = 'lost a node';

/** True where a reader must be told which node a rank is on. */
export function hasNodes({ nodes, max_nodes }: Snapshot): boolean {
  return nodes.length > 0 || max_nodes > 1;
}

export function nodeOf({ nodes }: Snapshot, index: number): RunNode | undefined {
  return nodes[index]?.node === index ? nodes[index] : nodes.find(node => node.node === index);
}

export function isHere(node: RunNode): boolean {
  return node.state === 'joined';
}

/** `node 1 (host b)`. */
export function nodeText(node: Pick<RunNode, 'node' | 'host'>): string {
  return node.host ? `node ${node.node} (host ${visible(node.host, 60)})` : `node ${node.node}`;
}

/** `nodes 0-3, 7`. */
export function nodesText(nodes: readonly number[]): string {
  const sorted = [...new Set(nodes)].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length;) {
    let j = i;
    while (j + 1 < sorted.length && sorted[j + 1] === sorted[j]! + 1) {
      j += 1;
    }
    parts.push(j > i + 1 ? `${sorted[i]}-${sorted[j]}` : sorted.slice(i, j + 1).join(', '));
    i = j + 1;
  }
  return `node${sorted.length === 1 ? '' : 's'} ${parts.join(', ')}`;
}

/** ` (node 1, local rank 1, host b)`: where a rank is, "" where that is no question. */
export function rankPlace(snapshot: Snapshot, one: Pick<Worker | Failure, 'node' | 'local_rank'>): string {
  if (!hasNodes(snapshot)) {
    return '';
  }
  const host = nodeOf(snapshot, one.node)?.host;
  return ` (node ${one.node}, local rank ${one.local_rank}${host ? `, host ${visible(host, 60)}` : ''})`;
}

/** The node with which a rank was lost; undefined for one that failed by itself. */
export function lostNodeOf(snapshot: Snapshot, failure: Failure | undefined): RunNode | undefined {
  return failure?.category === LOST_NODE ? nodeOf(snapshot, failure.node) : undefined;
}

/** `Node 1 (host b) was lost after 12 s: nothing was heard of it for 8 s`. */
export function goneText(node: RunNode, snapshot: Snapshot): string {
  const name = nodeText(node);
  const why = firstLine(node.text, 400).replace(/\.$/, '');
  const after = snapshot.created_ns ? ` after ${durationText((node.lost_ns - snapshot.created_ns) / 1e9)}` : '';
  return `${name[0]!.toUpperCase()}${name.slice(1)} ${node.state === 'lost' ? 'was lost' : 'left'}${after}${why ? `: ${why}` : ''}`;
}

/** The machines that take part, by name: `ada, babbage and 2 more`. */
export function hostsText(snapshot: Snapshot): string {
  const members = new Set(snapshot.workers.map(worker => worker.node));
  const here = snapshot.nodes.filter(node => isHere(node) || members.has(node.node));
  const hosts = [...new Set(here.map(node => visible(node.host, 60)).filter(Boolean))];
  const rest = hosts.length - MAX_HOSTS;
  return `${hosts.slice(0, MAX_HOSTS).join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
}

/** What a reader must know of a node at first sight: that it is gone, or came late; undefined for one that was always here. */
export function badgeOf(
  node: RunNode,
  snapshot: Snapshot,
  now_ns: number
): { kind: 'lost' | 'left' | 'joined'; text: string } | undefined {
  const when = (time_ns: number) =>
    isFinal(snapshot.state)
      ? `after ${durationText((time_ns - snapshot.created_ns) / 1e9)}`
      : `${elapsedText((now_ns - time_ns) / 1e9)} ago`;
  if (!isHere(node)) {
    const kind = node.state === 'lost' ? 'lost' : 'left';
    return { kind, text: `${kind} ${when(node.lost_ns)}` };
  }
  const came_ns = node.spans.at(-1)?.[0] ?? node.joined_ns;
  if (node.is_back) {
    return { kind: 'joined', text: `joined again ${when(came_ns)}` };
  }
  const first = snapshot.rounds.find(round => round.formed_ns);
  return first && came_ns > first.formed_ns! ? { kind: 'joined', text: `joined ${when(came_ns)}` } : undefined;
}

/** `2 GPUs`, "" where it has none. */
export function gpusText({ gpus }: RunNode): string {
  return gpus ? plural(gpus, 'GPU') : '';
}
