/** What the store of the logs asks of its surroundings. */

import type { FileKey } from '../model.js';

export interface StoreHost {
  read(file: FileKey, offset: number, size: number): Promise<Uint8Array>;
  /** Something changed that no new bytes told of: older bytes were read back, say. */
  changed(): void;
  nowMs(): number;
}
