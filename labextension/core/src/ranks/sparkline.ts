/** A line of a few words' size: how a number went lately. */

const SVG = 'http://www.w3.org/2000/svg';

export interface SparklineOptions {
  /** What the full height stands for; without it the largest value does. */
  max?: number;
  width?: number;
  height?: number;
  /** What a screen reader calls it; the last value is added. */
  label: string;
}

const drawn = new WeakMap<SVGElement, Required<Omit<SparklineOptions, 'max'>> & { max?: number }>();

export function sparkline(values: readonly number[], options: SparklineOptions): SVGElement {
  const all = { width: 64, height: 16, ...options };
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'nbe-sparkline');
  svg.setAttribute('role', 'img');
  svg.setAttribute('width', String(all.width));
  svg.setAttribute('height', String(all.height));
  svg.setAttribute('viewBox', `0 0 ${all.width} ${all.height}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  for (const part of ['area', 'line']) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', `nbe-sparkline-${part}`);
    svg.append(path);
  }
  drawn.set(svg, all);
  updateSparkline(svg, values);
  return svg;
}

/** Draw other values; what is not finite is a gap. */
export function updateSparkline(svg: SVGElement, values: readonly number[]): void {
  const options = drawn.get(svg);
  const [area, line] = svg.children;
  if (!options || !area || !line) {
    return;
  }
  const { width, height, label } = options;
  const stretches = stretchesOf(values, options);
  const draw = (points: string[]): string => `M${points.length > 1 ? points.join('L') : `${points[0]}h0.01`}`;
  line.setAttribute('d', stretches.map(draw).join(''));
  const foot = (points: string[]): string =>
    points.length > 1 ? `M${x(points[0]!)} ${height}L${points.join('L')}L${x(points.at(-1)!)} ${height}Z` : '';
  area.setAttribute('d', stretches.map(foot).join(''));
  const last = values.findLast(value => Number.isFinite(value));
  svg.setAttribute('aria-label', last === undefined ? label : `${label}: ${Number(last.toPrecision(3))}`);
  svg.classList.toggle('nbe-sparkline-empty', !stretches.length || !width);
}

function stretchesOf(values: readonly number[], options: { max?: number; width: number; height: number }): string[][] {
  const { width, height } = options;
  const top = Math.max(options.max ?? 0, ...values.filter(Number.isFinite)) || 1;
  const step = values.length > 1 ? (width - 2) / (values.length - 1) : 0;
  const stretches: string[][] = [];
  let isOpen = false;
  values.forEach((value, i) => {
    if (!Number.isFinite(value)) {
      isOpen = false;
      return;
    }
    const y = height - 1 - (Math.max(0, value) / top) * (height - 2);
    const point = `${round(1 + i * step)} ${round(y)}`;
    if (isOpen) {
      stretches.at(-1)!.push(point);
    } else {
      stretches.push([point]);
    }
    isOpen = true;
  });
  return stretches;
}

function x(point: string): string {
  return point.slice(0, point.indexOf(' '));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
