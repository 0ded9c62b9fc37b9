/** The links to the kernels of all open notebooks, and what they tell together. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { ISessionContext } from '@jupyterlab/apputils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import type { Widget } from '@lumino/widgets';
import { isFinal, type RunRow } from '@nb-elastic/core';
import { KernelLink } from './link.js';

export class Links {
  /** A link came, went, opened or closed, or the runs changed. */
  readonly changed = new Signal<this, void>(this);
  private readonly _links = new Map<Kernel.IKernelConnection, KernelLink>();
  private readonly _watched = new WeakSet<ISessionContext>();

  constructor(
    private readonly _tracker: INotebookTracker,
    private readonly _shell: JupyterFrontEnd.IShell
  ) {
    _tracker.forEach(panel => this._watch(panel.sessionContext));
    _tracker.widgetAdded.connect((_, panel) => this._watch(panel.sessionContext));
    _shell.currentChanged?.connect(() => this._watchConsoles());
  }

  get all(): KernelLink[] {
    return [...this._links.values()];
  }

  of(panel: NotebookPanel | null | undefined): KernelLink | undefined {
    const kernel = panel?.sessionContext?.session?.kernel;
    return kernel ? this._links.get(kernel) : undefined;
  }

  /** The link of the notebook, or console, in which an element stands. */
  around(node: Node): KernelLink | undefined {
    for (const widget of this._shell.widgets('main')) {
      const kernel = contextOf(widget)?.session?.kernel;
      if (kernel && widget.node.contains(node)) {
        return this._links.get(kernel);
      }
    }
    return undefined;
  }

  /** The notebook whose kernel this is. */
  panelOf(link: KernelLink): NotebookPanel | undefined {
    return this._tracker.find(panel => panel.sessionContext?.session?.kernel === link.kernel);
  }

  /** The link that serves a run best: to the kernel that launched it, else to one that can read its folder. */
  forRun(runId: string): KernelLink | undefined {
    const knows = (link: KernelLink, isOwn: boolean) =>
      link.isOpen && link.runs.some(row => row.run_id === runId && (row.is_own || !isOwn));
    return this.all.find(link => knows(link, true)) ?? this.all.find(link => knows(link, false));
  }

  /** Runs that any kernel tells of, each once, newest first. */
  rows(): RunRow[] {
    const rows = new Map<string, RunRow>();
    for (const row of this.all.flatMap(link => link.runs)) {
      if (row.is_own || !rows.has(row.run_id)) {
        rows.set(row.run_id, row);
      }
    }
    return [...rows.values()].sort((a, b) => b.created_ns - a.created_ns);
  }

  /** The newest run of a notebook's kernel; with `isLive`, the newest that still runs. */
  newest(panel: NotebookPanel | null, isLive = false): RunRow | undefined {
    const rows = (this.of(panel)?.runs ?? []).filter(row => row.is_own && !(isLive && isFinal(row.state)));
    return rows.sort((a, b) => b.created_ns - a.created_ns)[0];
  }

  /** Before their first cell runs: Lab closes a comm whose target nobody registered. */
  private _watchConsoles(): void {
    for (const widget of this._shell.widgets('main')) {
      const context = contextOf(widget);
      if (context) {
        this._watch(context);
      }
    }
  }

  private _watch(context: ISessionContext): void {
    if (this._watched.has(context)) {
      return;
    }
    this._watched.add(context);
    context.kernelChanged.connect((_, { newValue }) => this._add(newValue));
    context.disposed.connect(() => {
      const kernel = context.session?.kernel;
      if (kernel) {
        this._links.get(kernel)?.dispose(); // While the kernel can still be told.
      }
    });
    this._add(context.session?.kernel);
  }

  private _add(kernel: Kernel.IKernelConnection | null | undefined): void {
    if (!kernel || kernel.isDisposed || this._links.has(kernel)) {
      return;
    }
    const link = new KernelLink(kernel);
    this._links.set(kernel, link);
    link.changed.connect(() => this.changed.emit());
    kernel.disposed.connect(() => {
      this._links.delete(kernel);
      this.changed.emit();
    });
    this.changed.emit();
  }
}

/** Notebooks and code consoles have one. */
function contextOf(widget: Widget): ISessionContext | undefined {
  return (widget as { sessionContext?: ISessionContext }).sessionContext ?? undefined;
}
