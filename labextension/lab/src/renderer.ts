/** Draws a run in a cell's output: live while a kernel can tell of it, else from what the notebook saved. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { PartialJSONObject } from '@lumino/coreutils';
import { Widget } from '@lumino/widgets';
import { isFinal, MIME, savedSource, type SavedRun, type Source } from '@nb-elastic/core';
import type { KernelLink } from './link.js';
import type { Links } from './links.js';
import { mountRun, type Mounted } from './mount.js';
import { hostIn } from './places.js';
import type { Settings } from './settings.js';
import { labSource } from './source.js';

/** How often a run that is not over looks for a kernel that knows it. */
const SEARCH_MS = 5000;
/** The kernel replaces the output itself at the end; only a page that was reloaded meanwhile has to ask for it. */
const FINAL_MS = 2000;

export interface Surroundings {
  app: JupyterFrontEnd;
  tracker: INotebookTracker;
  links: Links;
  settings: Settings;
}

export function rendererFactory(around: Surroundings): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [MIME],
    defaultRank: -10, // Before the anywidget's own view, which a reload in the middle of a cell leaves empty.
    createRenderer: () => new RunRenderer(around)
  };
}

export class RunRenderer extends Widget implements IRenderMime.IRenderer {
  private _model: IRenderMime.IMimeModel | undefined;
  private _saved: SavedRun | undefined;
  private _mounted: Mounted | undefined;
  private _link: KernelLink | undefined;
  private readonly _refused = new Set<KernelLink>();
  private _timer = 0;

  constructor(private readonly _around: Surroundings) {
    super();
    this.addClass('nbe-lab-output');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const saved = savedOf(model);
    const isSame = saved !== undefined && saved.run_id === this._saved?.run_id;
    this._model = model;
    this._saved = saved;
    if (isSame && this._link) {
      return; // What came over the link is more than what was saved.
    }
    this._unmount();
    if (this.isAttached) {
      this._choose();
    }
  }

  override dispose(): void {
    if (!this.isDisposed) {
      this._unmount();
      super.dispose();
    }
  }

  protected override onAfterAttach(): void {
    if (!this._mounted) {
      this._choose();
    }
  }

  private get _panel(): NotebookPanel | undefined {
    return this._around.tracker.find(panel => panel.node.contains(this.node));
  }

  private readonly _choose = (): void => {
    const saved = this._saved;
    if (!saved) {
      this.node.textContent = 'This output holds no run that can be shown.';
      return;
    }
    if (!isFinal(saved.snapshot.state)) {
      const link = this._liveLink(saved.run_id);
      if (link) {
        this._mountLive(link, saved);
        return;
      }
      this._search();
    }
    if (!this._mounted) {
      this._mount(savedSource(saved), saved);
    }
  };

  /** The notebook's own kernel is asked without waiting for its list: the run began this moment. */
  private _liveLink(runId: string): KernelLink | undefined {
    const { links } = this._around;
    const own = links.around(this.node);
    return own?.isOpen && !this._refused.has(own) ? own : links.forRun(runId);
  }

  private _search(): void {
    this._around.links.changed.disconnect(this._choose);
    this._around.links.changed.connect(this._choose);
    this._timer ||= window.setInterval(() => this._around.links.around(this.node)?.find(), SEARCH_MS);
  }

  private _mountLive(link: KernelLink, saved: SavedRun): void {
    this._unmount();
    const source = labSource(link, saved.run_id, saved);
    let isKnown = false;
    source.onMessage(message => {
      isKnown ||= message.type === 'hello';
      if (message.type === 'error' && !isKnown) {
        this._refused.add(link); // This kernel runs on another machine than the run did.
        this._unmount();
        this._choose();
      } else if (message.type === 'saved') {
        this._model?.setData({ data: message.bundle as PartialJSONObject });
      } else if (message.type === 'state' && isFinal(message.snapshot.state)) {
        this._awaitFinal(source);
      }
    });
    this._link = link;
    this._mount(source, saved);
    void this._save();
  }

  private _awaitFinal(source: Source): void {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => {
      if (this._saved && !isFinal(this._saved.snapshot.state)) {
        source.send({ type: 'saved', view: source.view });
      }
    }, FINAL_MS);
  }

  private _mount(source: Source, saved: SavedRun): void {
    const root = document.createElement('div');
    this.node.replaceChildren(root);
    this._mounted = mountRun(root, source, hostIn(this._around.app, saved.run_id, () => this._panel), saved.run_id);
  }

  private _unmount(): void {
    this._around.links.changed.disconnect(this._choose);
    window.clearInterval(this._timer);
    this._timer = 0;
    this._mounted?.dispose();
    this._mounted = undefined;
    this._link = undefined;
  }

  /** A page that is reloaded in the middle of the run finds its dashboard only in a notebook that was saved. */
  private async _save(): Promise<void> {
    const context = this._panel?.context;
    const model = context?.model;
    if (this._around.settings.saveOnLaunch && model?.dirty && !model.readOnly && !model.collaborative) {
      await context?.save().catch(() => undefined); // Lab has told its reader why.
    }
  }
}

/** Whatever a notebook holds under our MIME type; undefined where that is no run. */
function savedOf(model: IRenderMime.IMimeModel): SavedRun | undefined {
  const saved = model.data[MIME] as unknown as Partial<SavedRun> | undefined;
  const isRun = typeof saved?.run_id === 'string' && typeof saved.snapshot?.state === 'string';
  return isRun ? (saved as SavedRun) : undefined;
}
