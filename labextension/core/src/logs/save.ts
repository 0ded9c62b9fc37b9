/** Copies and downloads of what was logged. */

import { h } from '../dom.js';
import { MAX_READ_BYTES } from '../run/reads.js';
import type { RunData } from '../data.js';
import type { LogFile } from './file.js';
import { clockText, plainText, rankRanges } from './lines.js';
import { Page } from './page.js';
import type { Rows } from './rows.js';
import type { LineRow, LogStore } from './store.js';

type Told = (doneBytes: number) => void;

/** Hand a file to the browser's downloads. */
export function download(name: string, parts: BlobPart[]): void {
  const url = URL.createObjectURL(new Blob(parts, { type: 'text/plain;charset=utf-8' }));
  const link = h('a', { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A whole file as it is on disk; where it cannot be read, its lines that are here. */
export async function fileParts(data: RunData, store: LogStore, file: LogFile, told: Told): Promise<BlobPart[]> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  try {
    for (let offset = 0; ;) {
      const part = await data.read(file.key, offset, MAX_READ_BYTES);
      parts.push(part as Uint8Array<ArrayBuffer>);
      offset += part.length;
      told(offset);
      if (part.length < MAX_READ_BYTES) {
        return parts;
      }
    }
  } catch (error) {
    const here = store.linesOf(file);
    if (parts.length > 0 || here.length === 0) {
      throw error;
    }
    return here.map(line => line as Uint8Array<ArrayBuffer>);
  }
}

export async function lineParts(data: RunData, row: LineRow): Promise<BlobPart[]> {
  const size = (row.bytes?.length ?? 0) + row.more;
  return [(await data.read(row.file.key, row.offset, size)) as Uint8Array<ArrayBuffer>];
}

/** Lines as they are shown, with their ranks. Those that were given up are read back. */
export async function shownParts(store: LogStore, rows: Rows, hasTimes: boolean, told: Told): Promise<BlobPart[]> {
  const parts: string[] = [];
  let lines: string[] = [];
  let done = 0;
  for (let index = 0; index < rows.count; index++) {
    const { row, group } = rows.at(index);
    for (const member of group ?? [row]) {
      const part = store.book.parts[store.book.partOf(member)]!;
      if (part instanceof Page) {
        await store.fetch(part);
      }
      lines.push(`${lineOf(store, member, hasTimes)}\n`);
    }
    if (lines.length > 5000) {
      parts.push(lines.join(''));
      done += parts.at(-1)!.length;
      lines = [];
      told(done);
      await new Promise(resolve => setTimeout(resolve));
    }
  }
  return [...parts, lines.join('')];
}

/** A row of the log as text; of a folded one with all its ranks. */
export function lineOf(store: LogStore, number: number, hasTimes: boolean, group: number[] = [number]): string {
  const row = store.row(number);
  if (row.kind !== 'line') {
    const { kind, mark, file } = row;
    return kind === 'round'
      ? `--- round ${mark.round} ---`
      : `--- ${mark.size} bytes of rank ${file?.rank} skipped ---`;
  }
  const ranks = rankRanges(group.map(member => store.row(member, false).file?.rank ?? -1));
  return `${hasTimes ? `${clockText(row.time_ns)} ` : ''}[${ranks}] ${plainText(row)}`;
}

/** Put a text on the clipboard; pages without leave to do so have the old way. */
export async function copyText(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', { style: 'position: fixed; opacity: 0' });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}
