// A page's stand-in for a run: real stores, filled by the tests, under the views of metrics and outputs.
const SECOND = 1e9;
const ZERO = 1_700_000_000 * SECOND;

function runOf(ranks) {
  const workers = Array.from({ length: ranks }, (_, rank) => ({ rank, local_rank: rank, node: 0 }));
  return {
    snapshot: { ...nbe.EMPTY, state: 'running', started_ns: ZERO, workers },
    metrics: new nbe.MetricStore(),
    usage: new nbe.UsageStore(),
    outputs: new nbe.OutputStore()
  };
}

function report(data, rank, second, rest) {
  data.metrics.append({ time_ns: ZERO + second * SECOND, rank, ...rest });
}

function feed(store, rank, kind, rows) {
  const bytes = new TextEncoder().encode(rows.map(row => JSON.stringify(row) + '\n').join(''));
  const file = kind === 'usage' ? '0/usage' : `0/0/${rank}/${kind}`;
  store.take({ file, kind, node: 0, round: 0, local_rank: rank, rank, offset: 0, size: bytes.length, time_ns: 0, skipped: 0 }, bytes);
}

let displayed = 0;
function display(data, rank, rest) {
  displayed += 1;
  const blank = { rank, kind: 'display', display_id: '', data: {}, metadata: {}, note: '' };
  feed(data.outputs, rank, 'outputs', [{ time_ns: ZERO + displayed * SECOND, ...blank, ...rest }]);
}

function show(view) {
  const root = document.querySelector('#root');
  root.className = 'nbe';
  root.append(view.element);
  window.view = view;
  update();
}

function update() {
  view.update(new Set(['state', 'metrics', 'usage', 'outputs']));
}

function plotOf(title) {
  const chart = [...document.querySelectorAll('.nbe-chart')].find(e => e.querySelector('.nbe-chart-title').textContent === title);
  return chart && nbe.chartOf(chart).plot;
}

/** How many pixels of a chart have about that colour. */
function pixels(title, [r, g, b]) {
  const { canvas } = plotOf(title).ctx;
  const { data } = plotOf(title).ctx.getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) {
    const isNear = Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 30;
    count += isNear && data[i + 3] > 200 ? 1 : 0;
  }
  return count;
}
