/** A window on millions of rows: only those that are seen are elements, and it follows the end until somebody scrolls up. */

import { h } from '../dom.js';

export interface RowSource {
  count(): number;
  /** Names what a row shows; its element is kept as long as its key stays. */
  key(index: number): string;
  draw(index: number): HTMLElement;
  /** Following began or ended. */
  onFollow(isFollowing: boolean): void;
}

/** No browser draws elements of more than some 10 to 30 million pixels; above this, scrolling is scaled. */
const MAX_HEIGHT_PX = 8_000_000;
const DEFAULT_ROW_PX = 18;
/** So near to the end is at the end. */
const END_PX = 4;

export class Viewport {
  readonly element: HTMLElement;
  isFollowing = true;
  private readonly layer: HTMLElement;
  private readonly spacer: HTMLElement;
  private readonly resizes: ResizeObserver;
  private drawn = new Map<string, HTMLElement>();
  private rowPx = DEFAULT_ROW_PX;
  /** Where the view stands, in pixels of unscaled rows. */
  private topPx = 0;
  private setTopPx = 0;
  private widthPx = 0;
  private isWrapping = false;
  private isMeasured = false;

  constructor(
    private readonly rows: RowSource,
    label: string
  ) {
    this.layer = h('div', { class: 'nbe-log-layer' });
    this.spacer = h('div', { class: 'nbe-log-spacer' });
    const attributes = { class: 'nbe-log-rows', role: 'log', 'aria-live': 'off', 'aria-label': label, tabindex: 0 };
    this.element = h('div', attributes, this.spacer, this.layer);
    this.element.addEventListener('scroll', () => this.onScroll(), { passive: true });
    this.element.addEventListener('wheel', event => this.onWheel(event), { passive: false });
    this.resizes = new ResizeObserver(() => this.render());
    this.resizes.observe(this.element);
  }

  dispose(): void {
    this.resizes.disconnect();
  }

  setWrap(isWrapping: boolean): void {
    this.isWrapping = isWrapping;
    this.element.classList.toggle('nbe-is-wrapped', isWrapping);
    this.redraw();
  }

  follow(isFollowing: boolean): void {
    if (this.isFollowing !== isFollowing) {
      this.isFollowing = isFollowing;
      this.rows.onFollow(isFollowing);
    }
    this.render();
  }

  /** Make every row anew: how they are drawn has changed. */
  redraw(): void {
    this.drawn.clear();
    this.layer.replaceChildren();
    this.widthPx = 0;
    this.isMeasured = false;
    this.spacer.style.minWidth = '';
    this.render();
  }

  /** First and last index that is seen. */
  seen(): [number, number] {
    const first = Math.floor(this.topPx / this.rowPx);
    return [first, Math.min(this.rows.count() - 1, first + this.fit - 1)];
  }

  /** Bring a row into view, in the middle unless it is seen already. */
  reveal(index: number): void {
    const [first, last] = this.seen();
    if (index <= first || index >= last) {
      this.topPx = Math.max(0, index - Math.floor(this.fit / 2)) * this.rowPx;
      this.follow(false);
    }
  }

  /** Scroll by rows; up stops following, down to the end starts it. */
  scrollRows(rows: number): void {
    const topPx = Math.min(Math.max(0, this.topPx + rows * this.rowPx), this.maxTopPx);
    this.topPx = topPx;
    this.follow(rows > 0 && topPx >= this.maxTopPx - END_PX);
  }

  /** Rows that fit in. */
  get fit(): number {
    return Math.max(1, Math.floor(this.element.clientHeight / this.rowPx));
  }

  render(): void {
    const height = this.element.clientHeight;
    if (height === 0) {
      return;
    }
    const count = this.rows.count();
    const total = count * this.rowPx;
    this.layer.style.height = `${height}px`;
    this.spacer.style.height = `${Math.min(total, MAX_HEIGHT_PX)}px`;
    this.topPx = this.isFollowing ? this.maxTopPx : Math.min(Math.max(0, this.topPx), this.limitPx);
    this.syncScroll();
    const first = Math.floor(this.topPx / this.rowPx);
    const last = Math.min(count, Math.ceil((this.topPx + height) / this.rowPx));
    this.place(first, last);
    this.layer.classList.toggle('nbe-is-at-end', this.isWrapping && this.isFollowing && this.drawnPx > height);
    const hidden =
      this.isWrapping && count > 0 && !this.isFollowing ? (this.topPx / this.rowPx - first) * this.heightOf(first) : 0;
    this.layer.style.setProperty(
      '--nbe-log-shift',
      this.isWrapping ? `${-hidden}px` : `${first * this.rowPx - this.topPx}px`
    );
    this.measure();
  }

  private get maxTopPx(): number {
    return Math.max(0, this.rows.count() * this.rowPx - this.element.clientHeight);
  }

  /** Wrapped rows are higher: the last ones are reached later. */
  private get limitPx(): number {
    return this.isWrapping ? Math.max(0, this.rows.count() - 1) * this.rowPx : this.maxTopPx;
  }

  private get drawnPx(): number {
    const [first, last] = [this.layer.firstElementChild, this.layer.lastElementChild];
    return first && last ? last.getBoundingClientRect().bottom - first.getBoundingClientRect().top : 0;
  }

  /** Pixels of rows for a pixel of scrolling. */
  private get scale(): number {
    const total = this.rows.count() * this.rowPx;
    const range = Math.min(total, MAX_HEIGHT_PX) - this.element.clientHeight;
    return total > MAX_HEIGHT_PX ? this.maxTopPx / range : 1;
  }

  /** Put the scroll bar where the view stands. */
  private syncScroll(): void {
    const top = Math.round(Math.min(this.topPx, this.maxTopPx) / this.scale);
    if (Math.abs(top - this.element.scrollTop) > 1) {
      this.element.scrollTop = top;
    }
    this.setTopPx = this.element.scrollTop;
  }

  private onScroll(): void {
    const top = this.element.scrollTop;
    if (Math.abs(top - this.setTopPx) <= 1) {
      return;
    }
    const isUp = top < this.setTopPx;
    this.setTopPx = top;
    this.topPx = Math.min(top * this.scale, this.maxTopPx);
    const isAtEnd = this.topPx >= this.maxTopPx - END_PX * this.scale;
    this.follow(isAtEnd && !(isUp && this.isFollowing));
  }

  /** Where scrolling is scaled, or rows are of any height, a turn of the wheel still moves by what it says. */
  private onWheel(event: WheelEvent): void {
    const isOurs = this.isWrapping || this.scale !== 1;
    if (!isOurs || event.deltaY === 0 || event.ctrlKey || event.shiftKey) {
      return;
    }
    event.preventDefault();
    const px = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? event.deltaY * this.rowPx : event.deltaY;
    if (this.isWrapping) {
      this.scrollWrapped(px);
    } else {
      this.scrollRows(px / this.rowPx);
    }
  }

  /** Scroll by pixels through rows that are higher than `rowPx`; the fraction of `topPx` is a fraction of the first row. */
  private scrollWrapped(px: number): void {
    if (this.isFollowing) {
      this.topPx = this.endTopPx();
    }
    let first = Math.floor(this.topPx / this.rowPx);
    let left = (this.topPx / this.rowPx - first) * this.heightOf(first) + px;
    while (left < 0 && first > 0) {
      first -= 1;
      left += this.heightOf(first);
    }
    while (first < this.rows.count() - 1 && left >= this.heightOf(first)) {
      left -= this.heightOf(first);
      first += 1;
    }
    this.topPx = (first + Math.min(1, Math.max(0, left) / this.heightOf(first))) * this.rowPx;
    this.follow(px > 0 && this.topPx >= this.endTopPx());
  }

  /** Where the view stands when the last row ends at its lower edge. */
  private endTopPx(): number {
    let left = this.element.clientHeight;
    let first = this.rows.count();
    while (first > 0 && left > 0) {
      first -= 1;
      left -= this.heightOf(first);
    }
    return left >= 0 ? first * this.rowPx : (first - left / this.heightOf(first)) * this.rowPx;
  }

  /** Height of a wrapped row, drawn for that if it is not yet. */
  private heightOf(index: number): number {
    const key = this.rows.key(index);
    const element = this.drawn.get(key) ?? this.rows.draw(index);
    if (element.parentNode === null) {
      this.drawn.set(key, element);
      this.layer.append(element);
    }
    return element.getBoundingClientRect().height;
  }

  private place(first: number, last: number): void {
    const next = new Map<string, HTMLElement>();
    for (let index = first; index < last; index++) {
      const key = this.rows.key(index);
      next.set(key, this.drawn.get(key) ?? this.rows.draw(index));
    }
    // Take away first: what stays is not moved, and a selection in it lives on.
    this.drawn.forEach((element, key) => {
      if (!next.has(key)) {
        element.remove();
      }
    });
    let at = this.layer.firstElementChild;
    for (const element of next.values()) {
      if (element === at) {
        at = at.nextElementSibling;
      } else {
        this.layer.insertBefore(element, at);
      }
    }
    this.drawn = next;
  }

  /** Learn how high a row is, and never grow narrower: the scroll bar below would jump. */
  private measure(): void {
    const row = this.layer.firstElementChild;
    if (row === null || this.isWrapping) {
      return;
    }
    const height = row.getBoundingClientRect().height;
    if (!this.isMeasured && height > 0 && Math.abs(height - this.rowPx) > 0.01) {
      this.isMeasured = true;
      this.topPx *= height / this.rowPx;
      this.rowPx = height;
      this.render();
      return;
    }
    const width = this.layer.scrollWidth;
    if (width > this.widthPx) {
      this.widthPx = width;
      this.spacer.style.minWidth = `${width}px`;
    }
  }
}
