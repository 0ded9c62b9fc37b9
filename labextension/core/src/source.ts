/** Where a dashboard's data comes from, and what its surroundings can do for it. */

import type { About, Chunk, FileKey, RunRow, SavedRun, Snapshot, StackReport } from './model.js';

/**
 * From the kernel. Several pages may listen on one comm: a message with `view` is for that view alone.
 * `seq` counts the numbered messages of a view from 1; one that is missing was lost on the way.
 */
export type FromKernel = { view?: string; run?: string } & (
  | { type: 'hello'; version: number; about: About; time_ns: number }
  | { type: 'state'; seq: number; snapshot: Snapshot; time_ns: number }
  | { type: 'chunks'; seq: number; chunks: Chunk[]; time_ns: number }
  /** Once a second while the run lasts, and once when everything was sent (`is_over`). */
  | { type: 'beat'; seq: number; time_ns: number; is_over: boolean }
  /** Answers `read`; the bytes are in the buffer, fewer than asked for at the file's end. `size_bytes` is the file's. */
  | { type: 'bytes'; id: number; file: FileKey; offset: number; size_bytes: number }
  /** Answers `saved`: the MIME bundle that stands for the run in a saved notebook. */
  | { type: 'saved'; bundle: Record<string, unknown> }
  /** Tells what became of a `stop`. */
  | { type: 'stopping'; ok: boolean; text: string }
  /** Answers `stacks`: where the ranks are, or in `text` why that can't be told. */
  | { type: 'stacks'; ok: boolean; text: string; report: StackReport | null }
  /** Widget only: answers `asset`, and is sent to everybody while no page was heard; the script is in the buffer. */
  | { type: 'asset'; name: 'charts.js' }
  /** Lab's comm only: unasked whenever the list changes. */
  | { type: 'runs'; runs: RunRow[] }
  | { type: 'error'; text: string }
);

/** To the kernel. */
export type ToKernel = { view: string; run?: string } & (
  /** Begin, or go on after a gap: `have` is how far each file was received. */
  | { type: 'open'; have: Record<FileKey, number> }
  /** All numbered messages up to `seq` came; also tells that the view is still there. */
  | { type: 'ack'; seq: number }
  | { type: 'read'; id: number; file: FileKey; offset: number; size: number }
  | { type: 'stop'; grace_s: number }
  | { type: 'stacks' }
  | { type: 'saved' }
  /** Widget only: code that it was not sent at once. */
  | { type: 'asset'; name: 'charts.js' }
  | { type: 'close' }
  | { type: 'list' }
);

export type Handler = (message: FromKernel, buffer?: Uint8Array) => void;

/** A way to the run's data; made from an anywidget model, from lab's comm, or from what was saved. */
export interface Source {
  readonly kind: 'widget' | 'lab' | 'saved';
  /** Id of this view, in every message that is for it alone. */
  readonly view: string;
  /** What is already known of the run, drawn until the source has spoken. */
  readonly saved?: SavedRun;
  send(message: ToKernel): void;
  /** Returns a function that ends it. */
  onMessage(handler: Handler): () => void;
  dispose(): void;
}

/** What the page around a dashboard offers; all of it may be missing. */
export interface Host {
  /** Scroll to a line of a cell, as `Cell In[12], line 7` names it. */
  openCell?(label: string, line: number): void;
  /** Show the folder with the run's files. */
  openFolder?(path: string): void;
  /** Open the run in a tab of its own. */
  openTab?(runId: string): void;
}
