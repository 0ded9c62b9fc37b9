/** Reads of a file's bytes that wait for the kernel's answer. */

import { join } from './jsonlines.js';
import type { FileKey } from '../model.js';

export const MAX_READ_BYTES = 1_000_000;
const TIMEOUT_MS = 15_000;

interface Waiting {
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
  sentMs: number;
}

type Ask = (message: { type: 'read'; id: number; file: FileKey; offset: number; size: number }) => void;

export class Reads {
  private readonly waiting = new Map<number, Waiting>();
  private nextId = 1;

  constructor(
    private readonly ask: Ask,
    private readonly nowMs: () => number
  ) {}

  /** In as many requests as it needs, one after another. */
  async read(file: FileKey, offset: number, size: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let left = size;
    while (left > 0) {
      const asked = Math.min(left, MAX_READ_BYTES);
      const part = await this.request(file, offset + size - left, asked);
      parts.push(part.subarray(0, asked));
      left = part.length < asked ? 0 : left - asked;
    }
    return join(parts);
  }

  answer(id: number, bytes: Uint8Array): void {
    this.waiting.get(id)?.resolve(bytes);
    this.waiting.delete(id);
  }

  /** Give up those that nobody answered. */
  expire(): void {
    for (const [id, { sentMs, reject }] of this.waiting) {
      if (this.nowMs() - sentMs > TIMEOUT_MS) {
        this.waiting.delete(id);
        reject(new Error('the kernel did not answer'));
      }
    }
  }

  dispose(): void {
    this.waiting.forEach(({ reject }) => reject(new Error('the dashboard was closed')));
    this.waiting.clear();
  }

  private request(file: FileKey, offset: number, size: number): Promise<Uint8Array> {
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, sentMs: this.nowMs() });
      this.ask({ type: 'read', id, file, offset, size });
    });
  }
}
