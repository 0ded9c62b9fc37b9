/** The one rank that a reader looks at, shared by all parts of a dashboard: a tile sets it, logs and charts follow it. */

import type { Host } from '../source.js';

export class Selection {
  #rank: number | undefined;
  readonly #listeners = new Set<(rank: number | undefined) => void>();

  /** The selected rank, undefined for all of them. */
  get rank(): number | undefined {
    return this.#rank;
  }

  select(rank: number | undefined): void {
    if (rank === this.#rank) {
      return;
    }
    this.#rank = rank;
    for (const listener of [...this.#listeners]) {
      listener(rank);
    }
  }

  /** Select a rank; the selected one is let go. */
  toggle(rank: number): void {
    this.select(rank === this.#rank ? undefined : rank);
  }

  /** Returns a function that ends it. */
  onChange(listener: (rank: number | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** What the parts of one dashboard get: what the page offers, and their common selection. */
export interface Shared extends Host {
  readonly selection: Selection;
}

/** Make the host of one dashboard's parts. */
export function share(host: Host): Shared {
  return {
    openCell: host.openCell?.bind(host),
    openFolder: host.openFolder?.bind(host),
    openTab: host.openTab?.bind(host),
    selection: new Selection()
  };
}

/** The selection that a part shares with the others; one of its own where it stands alone. */
export function selectionOf(host: Host & { selection?: Selection }): Selection {
  return host.selection ?? new Selection();
}
