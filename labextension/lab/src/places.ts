/** Where things of a run are in JupyterLab: the cell that a traceback names, the folder with its files, its tab. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Clipboard, Notification } from '@jupyterlab/apputils';
import { type Cell, type CodeCell, type ICodeCellModel, isCodeCellModel } from '@jupyterlab/cells';
import { PageConfig } from '@jupyterlab/coreutils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { MIME, type Host, type SavedRun } from '@nb-elastic/core';

export const OPEN_RUN = 'nb-elastic:open-run';

/** What a dashboard can do in this page. `panel` finds the notebook of the run when it is needed: it may open later. */
export function hostIn(app: JupyterFrontEnd, runId: string, panel: () => NotebookPanel | undefined): Host {
  return {
    openCell: (label, line) => void openCell(app, panel(), runId, label, line),
    openFolder: path => void openFolder(app, path),
    openTab: id => void app.commands.execute(OPEN_RUN, { runId: id })
  };
}

/** Scroll to a line of a cell (`Cell In[12]`) and select it; tell where the cell is gone or another by now. */
export async function openCell(
  app: JupyterFrontEnd,
  panel: NotebookPanel | undefined,
  runId: string,
  label: string,
  line: number
): Promise<void> {
  const index = panel ? indexOfCell(panel, runId, label) : -1;
  const cell = panel?.content.widgets[index];
  if (!panel || !cell) {
    Notification.info(`${label} is not in an open notebook, or was executed again since.`, { autoClose: 5000 });
    return;
  }
  app.shell.activateById(panel.id);
  panel.content.activeCellIndex = index;
  await panel.content.scrollToItem(index, 'smart');
  await cell.ready;
  selectLine(cell, line);
  if (isCodeCellModel(cell.model) && hasChanged(cell.model, runId)) {
    Notification.info(`${label} was changed since: line ${line} may be another now.`, { autoClose: 5000 });
  }
}

function selectLine(cell: Cell, line: number): void {
  const editor = cell.editor;
  if (!editor) {
    return;
  }
  cell.inputHidden = false;
  const at = Math.min(Math.max(line, 1), editor.lineCount) - 1;
  editor.focus();
  editor.setSelection({
    start: { line: at, column: 0 },
    end: { line: at, column: editor.getLine(at)?.length ?? 0 }
  });
  editor.revealPosition({ line: at, column: 0 });
}

/** A cell that still runs has no number yet: it is known by the run in its output. */
function indexOfCell(panel: NotebookPanel, runId: string, label: string): number {
  const count = Number(/In\s?\[(\d+)\]/.exec(label)?.[1] ?? NaN);
  const cells = panel.content.widgets.map(widget => widget.model);
  const byCount = cells.findIndex(model => isCodeCellModel(model) && model.executionCount === count);
  if (byCount >= 0) {
    return byCount;
  }
  return cells.findIndex(
    model => isCodeCellModel(model) && model.executionCount === null && labelOf(model, runId).endsWith(label)
  );
}

function savedIn(model: ICodeCellModel, runId: string): SavedRun | undefined {
  for (let i = 0; i < model.outputs.length; i++) {
    const saved = model.outputs.get(i).data[MIME] as unknown as SavedRun | undefined;
    if (saved?.run_id === runId) {
      return saved;
    }
  }
  return undefined;
}

function labelOf(model: ICodeCellModel, runId: string): string {
  const saved = savedIn(model, runId);
  return saved?.about?.label ?? saved?.snapshot.entry ?? '';
}

/** The launched cell is compared with what was launched; of others, Lab knows whether they were edited since. */
function hasChanged(model: ICodeCellModel, runId: string): boolean {
  const launched = savedIn(model, runId)?.about?.cell;
  return launched ? !model.sharedModel.getSource().includes(launched.trim()) : model.isDirty;
}

/** Below the server's root it opens in the file browser; elsewhere its path is put on the clipboard. */
export async function openFolder(app: JupyterFrontEnd, path: string): Promise<void> {
  const root = PageConfig.getOption('serverRoot').replace(/\/+$/, '');
  const isHidden = path.slice(root.length).includes('/.');
  if (root && path.startsWith(`${root}/`) && !isHidden && app.commands.hasCommand('filebrowser:open-path')) {
    await app.commands.execute('filebrowser:open-path', { path: path.slice(root.length) });
    return;
  }
  Clipboard.copyToSystem(path);
  Notification.info(`Copied the folder's path: ${path}`, { autoClose: 4000 });
}

export function isCodeCell(cell: Cell | null | undefined): cell is CodeCell {
  return cell?.model.type === 'code';
}
