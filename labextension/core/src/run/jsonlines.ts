/** Rows out of the bytes of an append-only file of JSON lines, however they were cut on the way. */

/** A line above this is not kept: no honest row is so long. */
export const MAX_LINE_BYTES = 4_000_000;

const NEWLINE = 10;

/** Splits one file. A line that is no JSON object is dropped: a rank was killed while it wrote, say. */
export class JsonLines<Row extends object> {
  private parts: Uint8Array[] = [];
  private size = 0;
  private isTooLong = false;
  private readonly decoder = new TextDecoder();

  /** Take the file's next bytes; `skipped` ones before them never came, and with them the line that they cut. */
  push(bytes: Uint8Array, skipped = 0): Row[] {
    if (skipped > 0) {
      this.parts = [];
      this.isTooLong = true;
    }
    const rows: Row[] = [];
    let start = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, start)) {
      this.keep(bytes.subarray(start, end));
      const row = this.finish();
      if (row !== undefined) {
        rows.push(row);
      }
      start = end + 1;
    }
    if (start < bytes.length) {
      this.keep(bytes.slice(start));
    }
    return rows;
  }

  private keep(part: Uint8Array): void {
    this.size += part.length;
    if (this.size > MAX_LINE_BYTES) {
      this.isTooLong = true;
      this.parts = [];
    } else if (!this.isTooLong) {
      this.parts.push(part);
    }
  }

  private finish(): Row | undefined {
    const text = this.isTooLong ? '' : this.decoder.decode(join(this.parts));
    this.parts = [];
    this.size = 0;
    this.isTooLong = false;
    if (text.trim() === '') {
      return undefined;
    }
    try {
      const row: unknown = parse(text);
      return typeof row === 'object' && row !== null && !Array.isArray(row) ? (row as Row) : undefined;
    } catch {
      return undefined;
    }
  }
}

/** One array of several; a single one is not copied. */
export function join(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) {
    return parts[0]!;
  }
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** JSON as Python writes it: numbers that JSON does not have (`NaN`, `Infinity`) become texts of that name. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g, one => (one[0] === '"' ? one : `"${one}"`)));
  }
}
