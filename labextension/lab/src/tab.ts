/** A run in a tab of its own, filled as soon as a kernel can tell of it. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Widget } from '@lumino/widgets';
import { h } from '@nb-elastic/core';
import { elasticIcon } from './icon.js';
import type { KernelLink } from './link.js';
import type { Links } from './links.js';
import { mountRun, type Mounted } from './mount.js';
import { hostIn } from './places.js';
import { labSource } from './source.js';

export class RunTab extends Widget {
  private _mounted: Mounted | undefined;
  private _link: KernelLink | undefined;
  private _wantsStacks = false;

  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _links: Links,
    readonly runId: string,
    name: string
  ) {
    super();
    this.id = `nb-elastic-run-${runId}`;
    this.addClass('nbe-lab-tab');
    this.title.label = name || runId;
    this.title.caption = `Run ${runId}`;
    this.title.icon = elasticIcon;
    this.title.closable = true;
    _links.changed.connect(this._follow);
    this._follow();
  }

  /** Ask where the run's ranks are, now or as soon as a kernel can tell. */
  askStacks(): void {
    const data = this._mounted?.data;
    this._wantsStacks = data === undefined;
    data?.askStacks();
  }

  override dispose(): void {
    if (!this.isDisposed) {
      this._links.changed.disconnect(this._follow);
      this._mounted?.dispose();
      super.dispose();
    }
  }

  /** A link that is gone for good (its notebook was closed) gives way to another; a kernel may come back. */
  private readonly _follow = (): void => {
    const link = this._links.forRun(this.runId);
    const isServed = this._link !== undefined && !this._link.isDisposed;
    if (isServed && (this._link?.isOpen || !link)) {
      return;
    }
    if (link) {
      this._mount(link);
    } else if (!this._mounted) {
      const text = `Waiting for a kernel that can read run ${this.runId}: run %load_ext nb_elastic in a notebook.`;
      this.node.replaceChildren(h('p', { class: 'nbe-lab-empty' }, text));
    }
  };

  private _mount(link: KernelLink): void {
    this._mounted?.dispose();
    this._link = link;
    const root = h('div', { 'data-size': 'tab' });
    this.node.replaceChildren(root);
    const host = hostIn(this._app, this.runId, () => this._links.panelOf(link));
    const mounted = mountRun(root, labSource(link, this.runId), { ...host, openTab: undefined }, this.runId);
    mounted.data.onChange(() => {
      const { name } = mounted.data.snapshot;
      if (name) {
        this.title.label = name;
      }
    });
    this._mounted = mounted;
    if (this._wantsStacks) {
      this.askStacks();
    }
  }
}
