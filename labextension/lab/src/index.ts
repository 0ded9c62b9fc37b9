/** The plugin: it only wires. A notebook's tracker is all that it needs, so that it works in Notebook 7, too. */

import { ILabShell, ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, WidgetTracker } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { addCommands, OPEN_PANEL, stopRun } from './commands.js';
import { Links } from './links.js';
import { RunsPanel } from './panel.js';
import { OPEN_RUN } from './places.js';
import { rendererFactory } from './renderer.js';
import { Settings } from './settings.js';
import { StatusItem } from './status.js';
import { RunTab } from './tab.js';

const ID = 'nb-elastic:plugin';

function activate(
  app: JupyterFrontEnd,
  tracker: INotebookTracker,
  rendermime: IRenderMimeRegistry,
  registry: ISettingRegistry | null,
  palette: ICommandPalette | null,
  restorer: ILayoutRestorer | null,
  statusBar: IStatusBar | null,
  labShell: ILabShell | null
): void {
  const settings = new Settings();
  const links = new Links(tracker, app.shell);
  const tabs = new WidgetTracker<RunTab>({ namespace: 'nb-elastic-runs' });
  const hasTabs = labShell !== null;
  const showRun = (runId: string, name: string): void => void openTab(app, links, tabs, hasTabs, runId, name);
  const showStacks = (runId: string, name: string): void => openTab(app, links, tabs, hasTabs, runId, name)?.askStacks();
  const panel = new RunsPanel(links, {
    open: row => showRun(row.run_id, row.name),
    stop: row => stopRun(links, row)
  });
  const showPanel = (): void => app.shell.activateById(panel.id);

  rendermime.addFactory(rendererFactory({ app, tracker, links, settings }));
  addCommands({ app, tracker, links, settings, showPanel, showRun, showStacks }, palette);
  restorer?.add(panel, panel.id);
  void restorer?.restore(tabs, {
    command: OPEN_RUN,
    args: tab => ({ runId: tab.runId, name: tab.title.label }),
    name: tab => tab.runId
  });
  if (statusBar) {
    const item = new StatusItem(links, () => void app.commands.execute(OPEN_PANEL));
    statusBar.registerStatusItem(ID, {
      item,
      align: 'left',
      rank: 20,
      isActive: () => settings.showStatus && item.isWanted,
      activeStateChanged: links.changed
    });
    settings.changed.connect(() => links.changed.emit());
  }
  let side = '';
  const place = (): void => {
    if (side !== settings.panelSide) {
      side = settings.panelSide;
      app.shell.add(panel, side, { rank: 700, type: 'nb_elastic' });
    }
  };
  place();
  settings.changed.connect(place);
  if (registry) {
    void settings.follow(registry, ID);
  }
}

/** Notebook 7 has no tabs: there the run opens below the notebook. */
function openTab(
  app: JupyterFrontEnd,
  links: Links,
  tabs: WidgetTracker<RunTab>,
  hasTabs: boolean,
  runId: string,
  name: string
): RunTab | undefined {
  let tab = tabs.find(one => one.runId === runId);
  if (!runId) {
    return undefined;
  }
  if (!tab) {
    tab = new RunTab(app, links, runId, name);
    app.shell.add(tab, hasTabs ? 'main' : 'down');
    void tabs.add(tab);
  }
  app.shell.activateById(tab.id);
  return tab;
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Runs of nb_elastic: dashboards that live through a reload, a list of runs, commands.',
  autoStart: true,
  requires: [INotebookTracker, IRenderMimeRegistry],
  optional: [ISettingRegistry, ICommandPalette, ILayoutRestorer, IStatusBar, ILabShell],
  activate
};

export default plugin;
