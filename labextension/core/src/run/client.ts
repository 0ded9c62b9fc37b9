/** The page's half of the protocol: follows one run over a source, heals what was lost, and hands each byte to its store once. */

import { pageClock, type Clock } from './clock.js';
import { EMPTY, NO_STACKS, type Link, type Stacks, type Part, type RunData } from '../data.js';
import type { MetricData, OutputData, Sink, UsageData } from '../data.js';
import { JsonLines } from './jsonlines.js';
import { LogStore } from '../logs/store.js';
import { isFinal, type About, type Chunk, type FileKey, type MetricRow, type Snapshot } from '../model.js';
import { Reads } from './reads.js';
import { stackReportOf } from './shape.js';
import type { FromKernel, Source, ToKernel } from '../source.js';

type Chunks = Extract<FromKernel, { type: 'chunks' }>;
type Body<T> = T extends unknown ? Omit<T, 'view' | 'run'> : never;

export interface Stores {
  metrics: MetricData;
  usage: UsageData & Sink;
  outputs: OutputData & Sink;
}

const STACKS_MS = 20_000;
const UNHEARD = 'The kernel hears this page only when its cell is over. In a terminal, `nb-elastic stacks` shows the same.';
const UNANSWERED = 'The kernel did not answer. In a terminal, `nb-elastic stacks` shows the same.';
const TICK_MS = 500;
/** How long a live run may say nothing: its kernel beats once a second. */
const SILENT_MS = 5000;
/** How long an unanswered page listens to what is sent to everybody before it takes itself for unheard. */
const DEAF_MS = 2000;
const DEAF_REOPEN_MS = 1000;
const MAX_DEAF_OPENS = 4;
const REOPEN_MS = 1000;
const MAX_REOPEN_MS = 30_000;
const ACK_EVERY = 10;
const ACK_MS = 1000;
/** A clock that went back by more than this was set anew (a slept laptop's, say). */
const CLOCK_JUMP_MS = 2000;

export class RunClient implements RunData {
  about: About | undefined;
  snapshot: Snapshot;
  link: Link = 'connecting';
  stopping: { ok: boolean; text: string } | undefined;
  stacks: Stacks = NO_STACKS;
  /** What the kernel last said was wrong, or "". */
  error = '';
  readonly logs: LogStore;

  private readonly have = new Map<FileKey, number>();
  private readonly rows = new Map<FileKey, JsonLines<MetricRow>>();
  private readonly listeners = new Set<(changed: ReadonlySet<Part>) => void>();
  private readonly reads: Reads;
  private readonly offs: (() => void)[];
  private stacksMs = -Infinity;
  private changed = new Set<Part>();
  private offFrame: (() => void) | undefined;
  /** Number of the last numbered message since `hello`, and of the last that was acknowledged. */
  private seq = 0;
  private ackedSeq = 0;
  private ackedMs = 0;
  private isAnswered = false;
  private isOver = false;
  private openedMs = -Infinity;
  private opens = 0;
  private heardMs: number;
  private broadcastMs = -Infinity;
  /** The run's clock less the page's. */
  private aheadMs: number | undefined;

  constructor(
    private readonly source: Source,
    private readonly runId: string | undefined,
    private readonly stores: Stores,
    private readonly clock: Clock = pageClock
  ) {
    this.about = source.saved?.about;
    this.snapshot = { ...EMPTY, ...source.saved?.snapshot };
    this.heardMs = clock.nowMs();
    this.reads = new Reads(
      message => this.send(message),
      () => clock.nowMs()
    );
    this.logs = new LogStore({
      read: (file, offset, size) => this.read(file, offset, size),
      changed: () => this.tell('logs'),
      nowMs: () => clock.nowMs()
    });
    this.offs = [
      source.onMessage((message, buffer) => this.receive(message, buffer)),
      clock.every(TICK_MS, () => this.tick())
    ];
    this.open();
  }

  get metrics(): MetricData {
    return this.stores.metrics;
  }

  get usage(): UsageData {
    return this.stores.usage;
  }

  get outputs(): OutputData {
    return this.stores.outputs;
  }

  nowNs(): number {
    const saved = this.source.saved;
    if (this.source.kind === 'saved' || (this.aheadMs === undefined && saved !== undefined)) {
      return saved?.saved_ns ?? this.snapshot.last_ns;
    }
    return (this.clock.nowMs() + (this.aheadMs ?? 0)) * 1e6;
  }

  onChange(listener: (changed: ReadonlySet<Part>) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  stop(grace_s: number): void {
    this.stopping = undefined;
    this.tell('stopping');
    this.send({ type: 'stop', grace_s });
  }

  askStacks(): void {
    const isUnheard = this.link === 'deaf';
    this.setStacks({ ...this.stacks, isAsked: !isUnheard, error: isUnheard ? UNHEARD : '' });
    if (!isUnheard) {
      this.stacksMs = this.clock.nowMs();
      this.send({ type: 'stacks' });
    }
  }

  dropStacks(): void {
    this.setStacks(NO_STACKS);
  }

  read(file: FileKey, offset: number, size: number): Promise<Uint8Array> {
    if (this.source.kind === 'saved') {
      return Promise.reject(new Error('the saved notebook has no more than this'));
    }
    if (this.link === 'deaf') {
      return Promise.reject(new Error('the kernel cannot answer while its cell is busy'));
    }
    return this.reads.read(file, offset, size);
  }

  dispose(): void {
    this.offs.forEach(off => off());
    this.offFrame?.();
    this.listeners.clear();
    this.reads.dispose();
    this.send({ type: 'close' });
    this.source.dispose();
  }

  private send(body: Body<ToKernel>): void {
    const to = this.runId === undefined ? { view: this.source.view } : { view: this.source.view, run: this.runId };
    this.source.send({ ...to, ...body } as ToKernel);
  }

  private open(): void {
    this.isAnswered = false;
    this.opens += 1;
    this.openedMs = this.clock.nowMs();
    this.send({ type: 'open', have: Object.fromEntries(this.have) });
  }

  /** Ask again after a loss, but not more often than the kernel can answer. */
  private reopen(): void {
    const wait = Math.min(REOPEN_MS * 2 ** Math.max(0, this.opens - 1), MAX_REOPEN_MS);
    const since = this.clock.nowMs() - this.openedMs;
    if (since >= (this.isAnswered ? REOPEN_MS : wait)) {
      this.open();
    }
  }

  private receive(message: FromKernel, buffer?: Uint8Array): void {
    const isBroadcast = message.view === '*';
    if (message.view !== undefined && message.view !== this.source.view && !isBroadcast) {
      return;
    }
    if (this.runId !== undefined && message.run !== undefined && message.run !== this.runId) {
      return;
    }
    if (isBroadcast && this.isAnswered) {
      return;
    }
    const now = this.clock.nowMs();
    this.heardMs = now;
    if (isBroadcast) {
      this.broadcastMs = now;
    }
    if ('time_ns' in message) {
      this.setClock(message.time_ns / 1e6 - now);
    }
    if (message.type === 'bytes') {
      this.reads.answer(message.id, buffer ?? new Uint8Array());
    } else if (message.type === 'stopping') {
      this.stopping = { ok: message.ok, text: message.text };
      this.tell('stopping');
    } else if (message.type === 'stacks') {
      const report = message.ok ? stackReportOf(message.report) : undefined;
      this.setStacks({
        isAsked: false,
        report: report ?? this.stacks.report,
        error: report ? '' : message.text || 'The kernel could not.'
      });
    } else if (message.type === 'error') {
      this.error = message.text;
      this.tell('link');
    } else if (message.type === 'hello') {
      this.greet(message.about, isBroadcast);
    } else if (message.type === 'state' || message.type === 'chunks' || message.type === 'beat') {
      this.follow(message, buffer, isBroadcast);
    }
  }

  private greet(about: About, isBroadcast: boolean): void {
    this.about = about;
    this.tell('about');
    if (isBroadcast) {
      return;
    }
    this.isAnswered = true;
    this.isOver = false;
    this.opens = 0;
    this.seq = 0;
    this.ackedSeq = 0;
    this.ackedMs = this.clock.nowMs();
    this.error = '';
    this.setLink(this.source.kind === 'saved' ? 'saved' : 'live');
  }

  private follow(message: FromKernel & { seq: number }, buffer: Uint8Array | undefined, isBroadcast: boolean): void {
    let isWhole = true;
    if (this.isAnswered) {
      if (message.seq <= this.seq) {
        return;
      }
      isWhole = message.seq === this.seq + 1;
      this.seq = message.seq;
      this.setLink(this.source.kind === 'saved' ? 'saved' : 'live');
    }
    if (message.type === 'state') {
      // A kernel with an older package does not know all fields.
      this.snapshot = { ...EMPTY, ...message.snapshot };
      this.tell('state');
    } else if (message.type === 'beat') {
      this.isOver = message.is_over;
      this.tell('state');
    } else if (message.type === 'chunks') {
      isWhole = this.takeChunks(message, buffer, isBroadcast) && isWhole;
    }
    if (!isWhole && !isBroadcast) {
      this.reopen();
    }
    this.acknowledge();
  }

  /** False if something before these bytes never came. */
  private takeChunks(message: Chunks, buffer: Uint8Array = new Uint8Array(), isBroadcast: boolean): boolean {
    let at = 0;
    let isWhole = true;
    for (const chunk of message.chunks) {
      const bytes = buffer.subarray(at, at + chunk.size);
      at += chunk.size;
      if (bytes.length < chunk.size) {
        return false;
      }
      isWhole = this.takeChunk(chunk, bytes, isBroadcast) && isWhole;
    }
    return isWhole;
  }

  private takeChunk(chunk: Chunk, bytes: Uint8Array, isBroadcast: boolean): boolean {
    const at = this.have.get(chunk.file) ?? 0;
    const end = chunk.offset + chunk.size;
    if (end <= at) {
      return true;
    }
    // Nobody can be asked again where nothing but the broadcast comes: what it lacks is a gap to be filled later.
    if (chunk.offset - chunk.skipped > at && !isBroadcast) {
      return false;
    }
    this.have.set(chunk.file, end);
    const offset = Math.max(chunk.offset, at);
    const fresh = { ...chunk, offset, size: end - offset, skipped: offset - at };
    this.hand(fresh, bytes.subarray(offset - chunk.offset));
    return true;
  }

  private hand(chunk: Chunk, bytes: Uint8Array): void {
    if (chunk.kind === 'stdout' || chunk.kind === 'stderr') {
      this.logs.take(chunk, bytes);
      this.tell('logs');
    } else if (chunk.kind === 'metrics') {
      let lines = this.rows.get(chunk.file);
      if (lines === undefined) {
        this.rows.set(chunk.file, (lines = new JsonLines()));
      }
      lines.push(bytes, chunk.skipped).forEach(row => this.stores.metrics.append({ ...row, rank: chunk.rank, round: chunk.round }));
      this.tell('metrics');
    } else if (chunk.kind === 'usage' || chunk.kind === 'outputs') {
      this.stores[chunk.kind].take(chunk, bytes);
      this.tell(chunk.kind);
    }
  }

  private acknowledge(): void {
    const now = this.clock.nowMs();
    const isDue = this.seq - this.ackedSeq >= ACK_EVERY || now - this.ackedMs >= ACK_MS || this.isOver;
    if (this.isAnswered && this.seq > this.ackedSeq && isDue && this.source.kind !== 'saved') {
      this.ackedSeq = this.seq;
      this.ackedMs = now;
      this.send({ type: 'ack', seq: this.seq });
    }
  }

  private tick(): void {
    const now = this.clock.nowMs();
    this.reads.expire();
    if (this.stacks.isAsked && now - this.stacksMs >= STACKS_MS) {
      this.setStacks({ ...this.stacks, isAsked: false, error: UNANSWERED });
    }
    if (this.source.kind === 'saved') {
      return;
    }
    if (this.isAnswered) {
      if (!this.isOver && now - this.heardMs >= SILENT_MS) {
        this.setLink('silent');
        this.reopen();
      }
      return;
    }
    if (now - this.broadcastMs < SILENT_MS) {
      this.setLink(now - this.openedMs >= DEAF_MS ? 'deaf' : this.link);
      // Sent before the comm had its subshell, an `open` waits for the cell's end, and another one is heard. But all are answered.
      if (this.opens < MAX_DEAF_OPENS && now - this.openedMs >= DEAF_REOPEN_MS * 2 ** (this.opens - 1)) {
        this.open();
      }
    } else if (now - this.openedMs >= SILENT_MS) {
      if (!this.isOver && now - this.heardMs >= SILENT_MS) {
        this.setLink(this.source.saved !== undefined && isFinal(this.snapshot.state) ? 'saved' : 'silent');
      }
      this.reopen();
    }
  }

  private setClock(aheadMs: number): void {
    // A message is never early, so the greatest difference is the best one.
    if (this.aheadMs === undefined || aheadMs > this.aheadMs || aheadMs < this.aheadMs - CLOCK_JUMP_MS) {
      this.aheadMs = aheadMs;
    }
  }

  private setStacks(stacks: Stacks): void {
    this.stacks = stacks;
    this.tell('stacks');
  }

  private setLink(link: Link): void {
    if (this.link !== link) {
      this.link = link;
      this.tell('link');
    }
  }

  private tell(part: Part): void {
    this.changed.add(part);
    this.offFrame ??= this.clock.frame(() => {
      this.offFrame = undefined;
      const changed = this.changed;
      this.changed = new Set();
      for (const listener of [...this.listeners]) {
        listener(changed);
      }
    });
  }
}
