/** A run's data over the anywidget model of its cell; each view of the model is a page of its own to the kernel. */

import type { FromKernel, Source, ToKernel } from '@nb-elastic/core';

/** What is used of an anywidget model. */
export interface Model {
  get(name: string): unknown;
  on(event: 'msg:custom', listener: Listener): void;
  off(event: 'msg:custom', listener: Listener): void;
  send(message: unknown): void;
}

type Listener = (message: unknown, buffers?: readonly (DataView | ArrayBuffer)[]) => void;

/** Whom a message is for that goes to all views, because none was heard yet. */
const EVERYBODY = '*';

export function widgetSource(model: Model): Source {
  const view = newId();
  const listeners = new Set<Listener>();
  return {
    kind: 'widget',
    view,
    send: (message: ToKernel) => model.send({ ...message, view }),
    onMessage(handler) {
      const listener: Listener = (message, buffers) => {
        if (isMessage(message) && (message.view === undefined || message.view === view || message.view === EVERYBODY)) {
          handler(message, bytesOf(buffers?.[0]));
        }
      };
      listeners.add(listener);
      model.on('msg:custom', listener);
      return () => {
        listeners.delete(listener);
        model.off('msg:custom', listener);
      };
    },
    dispose() {
      for (const listener of listeners) {
        model.off('msg:custom', listener);
      }
      listeners.clear();
    }
  };
}

function isMessage(message: unknown): message is FromKernel {
  return typeof message === 'object' && message !== null && typeof (message as { type?: unknown }).type === 'string';
}

/** The same bytes, not a copy. */
function bytesOf(buffer: DataView | ArrayBuffer | undefined): Uint8Array | undefined {
  if (buffer === undefined) {
    return undefined;
  }
  return ArrayBuffer.isView(buffer)
    ? new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength)
    : new Uint8Array(buffer);
}

/** Pages over plain http from another machine have no `randomUUID`. */
function newId(): string {
  if (typeof crypto.randomUUID === 'function') {
    return crypto.randomUUID();
  }
  return [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, '0')).join('');
}
