/** The way to one kernel: its comm `nb_elastic.monitor`, over a subshell of this page, which no busy cell blocks. */

import { CommsOverSubshells, type Kernel, type KernelMessage } from '@jupyterlab/services';
import { type JSONObject, UUID } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import { Signal } from '@lumino/signaling';
import type { FromKernel, Handler, RunRow, ToKernel } from '@nb-elastic/core';
import { createSubshell, deleteSubshell, findComm, sendToComm } from './subshell.js';

export const TARGET = 'nb_elastic.monitor';

/** A kernel that answers nothing for so long is taken for busy. */
const BUSY_MS = 1500;
/** The kernel forgets a listener that it does not hear for 30 s. */
const LIST_MS = 20_000;
const LATE = Symbol('late');

/** What Lab's comms have beyond their interface. */
type LabComm = Kernel.IComm & { subshellId?: string | null; subshellStarted?: Promise<void> };

export class KernelLink implements IDisposable {
  /** Names this page in messages that belong to no dashboard. */
  readonly id = UUID.uuid4();
  /** The link opened or closed, or the list of runs is another. */
  readonly changed = new Signal<this, void>(this);
  runs: readonly RunRow[] = [];
  isDisposed = false;

  private readonly _handlers = new Set<Handler>();
  private readonly _timer: number;
  private _comm: Kernel.IComm | undefined;
  private _subshell: Promise<string | null> | undefined;
  private _subshellId: string | null = null; // The one that is spoken to; made by Lab, or by us.
  private _isOpen = false;
  private _search: Promise<void> | undefined;

  constructor(readonly kernel: Kernel.IKernelConnection) {
    kernel.registerCommTarget(TARGET, this._adopt);
    kernel.statusChanged.connect(this._onStatus, this);
    kernel.connectionStatusChanged.connect(this._onConnection, this);
    kernel.disposed.connect(this.dispose, this);
    window.addEventListener('pagehide', this._onPageHide);
    this._timer = window.setInterval(() => this.list(), LIST_MS);
    this.find();
  }

  get isOpen(): boolean {
    return this._isOpen;
  }

  /** Look for the comm of a kernel that opened it before this page was there. */
  find(): void {
    if (this._search) {
      return;
    }
    const search = this._find()
      .catch(() => undefined) // The kernel died, or went, meanwhile.
      .finally(() => {
        if (this._search === search) {
          this._search = undefined;
        }
      });
    this._search = search;
  }

  /** False where nobody would hear it. */
  send(message: ToKernel): boolean {
    if (!this._isOpen || !this._comm) {
      return false;
    }
    try {
      sendToComm(this.kernel, this._comm.commId, this._subshellId, message as unknown as JSONObject);
      return true;
    } catch {
      return false;
    }
  }

  onMessage(handler: Handler): () => void {
    this._handlers.add(handler);
    return () => this._handlers.delete(handler);
  }

  list(): void {
    this.send({ type: 'list', view: this.id });
  }

  dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this.isDisposed = true;
    window.clearInterval(this._timer);
    window.removeEventListener('pagehide', this._onPageHide);
    const comm = this._comm;
    this._forget();
    if (!this.kernel.isDisposed) {
      comm?.dispose(); // Only here: the kernel's end stays open for other pages. Lab deletes what subshell it made.
      this._dropSubshell();
      this.kernel.removeCommTarget(TARGET, this._adopt);
      this.kernel.statusChanged.disconnect(this._onStatus, this);
      this.kernel.connectionStatusChanged.disconnect(this._onConnection, this);
      this.kernel.disposed.disconnect(this.dispose, this);
    }
    this._handlers.clear();
    Signal.clearData(this);
  }

  private readonly _adopt = (comm: Kernel.IComm): void => void this._open(comm).catch(() => undefined);

  /** No promise is waited for by a page that goes, and Lab itself deletes nothing then. */
  private readonly _onPageHide = (): void => {
    if (this._subshellId !== null && !this.kernel.isDisposed) {
      deleteSubshell(this.kernel, this._subshellId);
    }
  };

  private _onStatus(_: unknown, status: Kernel.Status): void {
    if (status === 'restarting' || status === 'autorestarting' || status === 'dead') {
      this._search = undefined; // What was asked of that process is never answered,
      this._subshell = undefined; // and its subshells went with it.
      this._subshellId = null;
      this._forget();
    }
  }

  private _onConnection(_: unknown, status: Kernel.ConnectionStatus): void {
    if (status === 'connected') {
      this.find();
    }
  }

  private async _find(): Promise<void> {
    const spec = await this.kernel.spec.catch(() => undefined);
    if (this.isDisposed || (spec && spec.language !== 'python')) {
      return;
    }
    const asked = findComm(this.kernel, TARGET, null);
    let id = await within(asked, BUSY_MS);
    if (id === LATE) {
      const subshellId = await this._needSubshell();
      id = await (subshellId === null ? asked : Promise.race([findComm(this.kernel, TARGET, subshellId), asked]));
    }
    if (this.isDisposed || this._comm) {
      return;
    }
    if (id === undefined) {
      this._dropSubshell();
    } else if (!this.kernel.hasComm(id)) {
      const comm = this.kernel.createComm(TARGET, id);
      comm.commsOverSubshells = CommsOverSubshells.Disabled; // Lab's subshell would wait until the kernel is idle.
      await this._open(comm);
    }
  }

  private async _open(comm: Kernel.IComm): Promise<void> {
    comm.onMsg = message => this._take(message);
    comm.onClose = () => {
      if (this._comm === comm) {
        this._forget();
      }
    };
    this._comm = comm;
    this._isOpen = false;
    const subshellId = (await subshellOfLab(comm, this.kernel)) ?? (await this._needSubshell());
    if (this._comm !== comm || this.isDisposed) {
      return;
    }
    this._subshellId = subshellId;
    this._isOpen = true;
    this.list();
    this.changed.emit();
  }

  private _take(message: KernelMessage.ICommMsgMsg): void {
    const data = message.content.data as unknown as FromKernel;
    const buffer = message.buffers?.[0];
    if (data.type === 'runs' && Array.isArray(data.runs)) {
      this.runs = data.runs;
      this.changed.emit();
    }
    for (const handler of [...this._handlers]) {
      handler(data, buffer && bytesOf(buffer));
    }
  }

  private _needSubshell(): Promise<string | null> {
    this._subshell ??= this._askForSubshell().catch(() => null);
    return this._subshell;
  }

  /** An idle kernel says whether it has subshells; a busy one is asked for one, which only old ones do not answer. */
  private async _askForSubshell(): Promise<string | null> {
    const info = await within(this.kernel.info, BUSY_MS);
    if (info === LATE) {
      return Promise.race([createSubshell(this.kernel), this.kernel.info.then(() => this._ifSupported())]);
    }
    return this._ifSupported();
  }

  private async _ifSupported(): Promise<string | null> {
    return this.kernel.supportsSubshells ? createSubshell(this.kernel) : null;
  }

  private _dropSubshell(): void {
    const subshell = this._subshell;
    this._subshell = undefined;
    if (subshell && this._subshellId !== null) {
      deleteSubshell(this.kernel, this._subshellId); // At once: the connection is about to go.
    } else {
      void subshell?.then(id => id !== null && !this.kernel.isDisposed && deleteSubshell(this.kernel, id));
    }
    this._subshellId = null;
  }

  private _forget(): void {
    this._comm = undefined;
    this._isOpen = false;
    this.runs = [];
    this.changed.emit();
  }
}

/** The subshell that Lab makes for a comm that the kernel opened, unless the user's settings say otherwise. */
async function subshellOfLab(comm: LabComm, kernel: Kernel.IKernelConnection): Promise<string | null> {
  if (comm.commsOverSubshells === CommsOverSubshells.Disabled || !kernel.supportsSubshells || !comm.subshellStarted) {
    return null;
  }
  await within(
    comm.subshellStarted.catch(() => undefined),
    BUSY_MS
  );
  return comm.subshellId ?? null;
}

function bytesOf(buffer: ArrayBuffer | ArrayBufferView): Uint8Array {
  return buffer instanceof ArrayBuffer
    ? new Uint8Array(buffer)
    : new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.byteLength);
}

async function within<T>(promise: Promise<T>, timeout_ms: number): Promise<T | typeof LATE> {
  let timer = 0;
  const late = new Promise<typeof LATE>(resolve => (timer = window.setTimeout(resolve, timeout_ms, LATE)));
  return Promise.race([promise, late]).finally(() => window.clearTimeout(timer));
}
