/** What the palette, the toolbars and the list of runs can ask for. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { type ICommandPalette, Notification } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { RunRow } from '@nb-elastic/core';
import { elasticIcon } from './icon.js';
import type { Links } from './links.js';
import { isLaunch, toggleLaunch } from './magic.js';
import { isCodeCell, OPEN_RUN } from './places.js';
import type { Settings } from './settings.js';

export const OPEN_PANEL = 'nb-elastic:open-runs';
export const OPEN_NEWEST = 'nb-elastic:open-newest';
export const STOP_NEWEST = 'nb-elastic:stop-newest';
export const STACKS_NEWEST = 'nb-elastic:stacks-newest';
export const TOGGLE_LAUNCH = 'nb-elastic:toggle-launch';

/** The contract's grace between SIGINT and SIGTERM, for who stops a run without knowing its options. */
const GRACE_S = 5;

export interface Reach {
  app: JupyterFrontEnd;
  tracker: INotebookTracker;
  links: Links;
  settings: Settings;
  showPanel(): void;
  showRun(runId: string, name: string): void;
  /** Open the run's tab and ask there where its ranks are. */
  showStacks(runId: string, name: string): void;
}

export function addCommands(reach: Reach, palette: ICommandPalette | null): void {
  const { app, tracker, links } = reach;
  const current = () => tracker.currentWidget;
  app.commands.addCommand(OPEN_PANEL, {
    label: 'Show Runs',
    caption: 'List the runs of nb_elastic',
    icon: elasticIcon,
    execute: reach.showPanel
  });
  app.commands.addCommand(OPEN_RUN, {
    label: args => `Open Run ${String(args['runId'] ?? '')}`,
    execute: args => reach.showRun(String(args['runId'] ?? ''), String(args['name'] ?? ''))
  });
  app.commands.addCommand(OPEN_NEWEST, {
    label: "Open the Newest Run's Dashboard",
    isEnabled: () => links.newest(current()) !== undefined,
    execute: () => {
      const row = links.newest(current());
      if (row) {
        reach.showRun(row.run_id, row.name);
      }
    }
  });
  app.commands.addCommand(STOP_NEWEST, {
    label: 'Stop the Newest Run of This Notebook',
    isEnabled: () => links.newest(current(), true) !== undefined,
    execute: () => {
      const row = links.newest(current(), true);
      if (row) {
        stopRun(links, row);
      }
    }
  });
  app.commands.addCommand(STACKS_NEWEST, {
    label: 'Show the Stacks of the Newest Run of This Notebook',
    caption: 'Where each of its ranks is, also while the cell is busy',
    isEnabled: () => links.newest(current(), true) !== undefined,
    execute: () => {
      const row = links.newest(current(), true);
      if (row) {
        reach.showStacks(row.run_id, row.name);
      }
    }
  });
  app.commands.addCommand(TOGGLE_LAUNCH, {
    label: 'Launch This Cell on All GPUs (%%elastic_launch)',
    caption: 'Put %%elastic_launch on top of the cell, or take it off',
    icon: elasticIcon,
    isEnabled: () => isCodeCell(tracker.activeCell),
    execute: () => toggle(reach)
  });
  // A toolbar's button, and the palette, ask anew what is enabled when this changes.
  links.changed.connect(() => app.commands.notifyCommandChanged());
  tracker.activeCellChanged.connect(() => app.commands.notifyCommandChanged(TOGGLE_LAUNCH));
  for (const command of [OPEN_PANEL, OPEN_NEWEST, STOP_NEWEST, STACKS_NEWEST, TOGGLE_LAUNCH]) {
    palette?.addItem({ command, category: 'Elastic Launch' });
  }
}

/** Asks the kernel that launched it, else any that can read its folder; its answer is told. */
export function stopRun(links: Links, row: RunRow): void {
  const link = links.forRun(row.run_id);
  const name = row.name || row.run_id;
  const off = link?.onMessage(message => {
    if (message.type === 'stopping' && message.view === link.id && (message.run ?? row.run_id) === row.run_id) {
      off?.();
      if (!message.ok) {
        Notification.error(`Run ${name} was not stopped: ${message.text}`);
      }
    }
  });
  if (!link?.send({ type: 'stop', view: link.id, run: row.run_id, grace_s: GRACE_S })) {
    off?.();
    Notification.error(`Run ${name} was not stopped: no kernel that knows it can be reached.`);
  }
}

function toggle({ tracker, links, settings }: Reach): void {
  const cell = tracker.activeCell;
  if (!isCodeCell(cell)) {
    return;
  }
  const shared = cell.model.sharedModel;
  const edit = toggleLaunch(shared.getSource(), settings.launchOptions);
  shared.transact(() => shared.updateSource(edit.start, edit.end, edit.text));
  const link = links.of(tracker.currentWidget);
  if (isLaunch(shared.getSource()) && link && !link.isOpen) {
    const text = 'This kernel has not loaded nb_elastic yet: run %load_ext nb_elastic first.';
    Notification.info(text, { autoClose: 6000 });
  }
}
