/** The heading of a node: which machine it is, how its ranks are, and, where it is gone, since when and why. */

import { h, setAttribute, setText } from '../dom.js';
import { icon, setIcon } from '../common/icons.js';
import { badgeOf, goneText, gpusText, isHere, nodesText } from '../common/nodes.js';
import { firstLine, plural, visible } from '../common/text.js';
import type { RunNode, Snapshot } from '../model.js';
import { isOdd, type RankFacts } from './facts.js';
import { groupText } from './words.js';

/** With more nodes than this those that need a look come first: the others may be out of view. */
const MAX_IN_ORDER = 16;
/** Of nodes that are gone and have no ranks any more so many, the latest, have a heading. */
const MAX_GONE = 4;
const SIGNS = { lost: 'failed', left: 'ended', joined: 'joined' } as const;

/** A node and its ranks of the current round; `node` is undefined where nobody told of nodes. */
export interface NodeGroup {
  readonly index: number;
  readonly node: RunNode | undefined;
  readonly members: readonly RankFacts[];
}

/** What a heading is drawn from beside the ranks. */
export interface Moment {
  readonly snapshot: Snapshot;
  readonly now_ns: number;
}

/** The ranks by node, and the nodes without ranks; `older` went long ago. */
export function nodeGroups(
  facts: readonly RankFacts[],
  { nodes }: Snapshot
): { groups: NodeGroup[]; older: RunNode[] } {
  const members = new Map<number, RankFacts[]>();
  for (const fact of facts) {
    const group = members.get(fact.worker.node);
    if (group) {
      group.push(fact);
    } else {
      members.set(fact.worker.node, [fact]);
    }
  }
  const gone = nodes.filter(node => !isHere(node) && !members.has(node.node)).sort((a, b) => a.lost_ns - b.lost_ns);
  const older = gone.slice(0, -MAX_GONE);
  const shown = new Map(nodes.filter(node => !older.includes(node)).map(node => [node.node, node]));
  const indices = [...new Set([...members.keys(), ...shown.keys()])].sort((a, b) => a - b);
  const groups = indices.map(index => ({ index, node: shown.get(index), members: members.get(index) ?? [] }));
  if (groups.length > MAX_IN_ORDER) {
    groups.sort((a, b) => Number(isBad(b)) - Number(isBad(a)) || a.index - b.index);
  }
  return { groups, older };
}

/** That a rank is slow comes and goes, and must not move its node. */
function isBad({ node, members }: NodeGroup): boolean {
  return (node && !isHere(node)) || members.some(({ worker }) => worker.state === 'failed' || worker.state === 'held');
}

export interface Head {
  readonly parts: HTMLElement[];
  update(group: Pick<NodeGroup, 'node' | 'members'>, moment: Moment): void;
}

/** Make the heading of a node, or of all ranks where `index` is undefined. */
export function nodeHead(index: number | undefined, size: number): Head {
  const blocks = Array.from({ length: size }, () => h('i', {}));
  const strip = h('span', { class: 'nbe-strip', 'aria-hidden': 'true', hidden: !size }, ...blocks);
  const words = h('span', { class: 'nbe-group-words' });
  const title = h('span', { class: 'nbe-group-title' }, index === undefined ? plural(size, 'rank') : `node ${index}`);
  const host = h('span', { class: 'nbe-node-host', hidden: true });
  const badge = nodeBadge();
  return {
    parts: [title, host, badge.element, strip, words],
    update({ node, members }, moment) {
      members.forEach((fact, i) => {
        blocks[i]!.dataset.state = fact.worker.state;
        blocks[i]!.classList.toggle('nbe-odd', isOdd(fact));
      });
      const text = groupText(members, index === undefined);
      if (!node) {
        setText(words, text);
        return;
      }
      host.hidden = !node.host;
      setText(host, visible(node.host, 60));
      setAttribute(host, 'title', [node.host, node.address, node.place].map(word => visible(word, 100)).join(' · '));
      badge.update(node, moment);
      const why = isHere(node) ? '' : firstLine(node.text, 300);
      const size = members.length ? '' : isHere(node) ? gpusText(node) : '';
      const whole = [why, text, size].filter(Boolean).join(' · ');
      setText(words, whole);
      setAttribute(words, 'title', isHere(node) ? whole : goneText(node, moment.snapshot));
    }
  };
}

function nodeBadge(): { element: HTMLElement; update(node: RunNode, moment: Moment): void } {
  const sign = icon('failed');
  const text = h('span', {});
  const element = h('span', { class: 'nbe-node-badge', hidden: true }, sign, text);
  return {
    element,
    update(node, { snapshot, now_ns }) {
      const badge = badgeOf(node, snapshot, now_ns);
      element.hidden = !badge;
      if (badge) {
        element.dataset.node = badge.kind;
        setIcon(sign, SIGNS[badge.kind]);
        setText(text, badge.text);
        const at = new Date((isHere(node) ? (node.spans.at(-1)?.[0] ?? node.joined_ns) : node.lost_ns) / 1e6);
        setAttribute(element, 'title', `${badge.kind} at ${at.toLocaleTimeString()}`);
      }
    }
  };
}

/** One line for the nodes that went long ago. */
export function olderText(older: readonly RunNode[]): string {
  return older.length ? `${plural(older.length, 'more node')} went before: ${nodesText(older.map(node => node.node))}` : '';
}
