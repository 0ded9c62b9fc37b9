/** Reads pages of the log back that were given up for their memory. */

import type { LogFile } from './file.js';
import type { Page } from './page.js';
import type { StoreHost } from './store_host.js';

/** Pages read back that are kept at once. */
const MAX_BACK = 64;
const RETRY_MS = 5000;

interface Piece {
  file: number;
  offset: number;
  end: number;
}

export class PageReader {
  private back: Page[] = [];
  private readonly failedMs = new Map<Page, number>();

  constructor(
    private readonly host: StoreHost,
    private readonly files: readonly LogFile[]
  ) {}

  /** Ask for a page that is to be seen; it tells of a change when it is here. */
  want(page: Page): void {
    const failed = this.failedMs.get(page);
    if (failed === undefined || this.host.nowMs() - failed > RETRY_MS) {
      void this.fetch(page).catch(() => undefined);
    }
  }

  async fetch(page: Page): Promise<void> {
    if (page.isReading) {
      return;
    }
    page.isReading = true;
    try {
      const bytes = await this.read(page);
      page.bytes = bytes;
      page.isBack = true;
      page.error = '';
      this.failedMs.delete(page);
      this.keep(page);
    } catch (error) {
      page.error = (error as Error).message;
      this.failedMs.set(page, this.host.nowMs());
      throw error;
    } finally {
      page.isReading = false;
      this.host.changed();
    }
  }

  private async read(page: Page): Promise<Uint8Array> {
    const bytes = new Uint8Array(page.size).fill(10);
    const pieces = piecesOf(page);
    const texts = await Promise.all(
      pieces.map(({ file, offset, end }) => this.host.read(this.files[file]!.key, offset, end - offset))
    );
    for (let index = 0; index < page.runCount; index++) {
      const run = page.run(index);
      if (run.size === 0) {
        continue;
      }
      const at = pieces.findIndex(
        ({ file, offset, end }) => file === run.file && offset <= run.offset && run.offset < end
      );
      const piece = pieces[at]!;
      const text = texts[at]!.subarray(run.offset - piece.offset, run.offset - piece.offset + run.size);
      if (text.length < run.size) {
        throw new Error('the log file is shorter than it was');
      }
      bytes.set(text, run.start);
    }
    return bytes;
  }

  private keep(page: Page): void {
    this.back.push(page);
    while (this.back.length > MAX_BACK) {
      const oldest = this.back.shift()!;
      oldest.bytes = undefined;
      oldest.isBack = false;
      oldest.dropStarts();
    }
  }
}

/** What to read: runs of one file that lie near one another go together. */
function piecesOf(page: Page): Piece[] {
  const pieces: Piece[] = [];
  const last = new Map<number, Piece>();
  for (let index = 0; index < page.runCount; index++) {
    const { file, offset, size } = page.run(index);
    const piece = last.get(file);
    if (size === 0) {
      continue;
    }
    if (piece !== undefined && offset >= piece.end && offset - piece.end < 65_536) {
      piece.end = offset + size;
    } else {
      const begun = { file, offset, end: offset + size };
      pieces.push(begun);
      last.set(file, begun);
    }
  }
  return pieces;
}
