/**
 * The parts of a dashboard that other modules draw, in one table: whoever adds a tab adds a row. The charts are handed in: a door
 * whose script must stay small brings them late.
 */

import type { Part, RunData } from './data.js';
import { logsView, type LogsData } from './logs/view.js';
import { outputsView } from './outputs/view.js';
import type { Shared } from './common/selection.js';
import { countText } from './common/text.js';
import { timelineView } from './timeline/view.js';
import type { View } from './view.js';

/** Draws one part. */
export type Drawn = (data: RunData, host: Shared) => View;

export interface Tab {
  readonly id: string;
  readonly title: string;
  /** How much there is, "" for nothing worth a number; asked when a part of `parts` changed. */
  count(data: RunData): string;
  readonly parts: readonly Part[];
  readonly view: Drawn;
}

const number = (count: number) => (count ? countText(count) : '');

export const tabsWith = (charts: Drawn): readonly Tab[] => [
  {
    id: 'logs',
    title: 'Logs',
    parts: ['logs'],
    count: data => number(data.logs.lineCount()),
    // The view reads the store itself, which is what `RunClient` has.
    view: (data, host) => logsView(data as LogsData, host)
  },
  {
    id: 'metrics',
    title: 'Metrics',
    parts: ['metrics', 'usage'],
    count: data => number(data.metrics.names.length),
    view: charts
  },
  {
    id: 'timeline',
    title: 'Timeline',
    parts: ['state'],
    count: data => (data.snapshot.rounds.length > 1 ? `${data.snapshot.rounds.length} rounds` : ''),
    view: timelineView
  },
  {
    id: 'outputs',
    title: 'Outputs',
    parts: ['outputs'],
    count: data => number(data.outputs.ranks.reduce((sum, rank) => sum + data.outputs.of(rank).length, 0)),
    view: outputsView
  }
];
