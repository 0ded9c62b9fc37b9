/** The anywidget door: a dashboard under a cell, wherever ipywidgets work. */

import { late, mountDashboard, openRun, tabsWith } from '@nb-elastic/core';
import { chartsLoader } from './charts.js';
import { widgetSource, type Model } from './source.js';

/** Draw the model's run into an element. Returns what anywidget calls when the view goes. */
function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const root = document.createElement('div');
  const runId = String(model.get('run_id') ?? '');
  el.append(root, withoutTail(runId));
  const source = widgetSource(model);
  const data = openRun(source, runId || undefined);
  const dashboard = mountDashboard(root, data, {}, tabsWith(late(chartsLoader(source))));
  return () => {
    dashboard.dispose();
    data.dispose();
    source.dispose();
    el.replaceChildren();
  };
}

/** The HTML that stands in where no script reaches the page is not needed beside us. */
function withoutTail(runId: string): HTMLElement {
  const style = document.createElement('style');
  style.textContent = `.nbe-tail-of-${CSS.escape(runId)} { display: none; }`;
  return style;
}

export default { render };
