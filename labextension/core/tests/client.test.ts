import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EMPTY, RunClient, type Clock, type MetricRow, type Part, type Sink, type Stores } from '../src/index.js';
import type { About, Chunk, FileKind, FromKernel, Handler, SavedRun, Source, ToKernel } from '../src/index.js';

const ABOUT: About = { run_id: 'r', dir: '/d', torchrun: '', label: '', cell: '', grace_s: 1, can_stop: true };
const S = 1e9;

class FakeClock implements Clock {
  now = 1000;
  private ticks: (() => void)[] = [];
  private frames: (() => void)[] = [];
  nowMs = (): number => this.now;
  every(_ms: number, call: () => void): () => void {
    this.ticks.push(call);
    return () => (this.ticks = this.ticks.filter(each => each !== call));
  }
  frame(call: () => void): () => void {
    this.frames.push(call);
    return () => (this.frames = this.frames.filter(each => each !== call));
  }
  pass(ms: number): void {
    for (let left = ms; left > 0; left -= 500) {
      this.now += Math.min(left, 500);
      this.ticks.forEach(call => call());
    }
  }
  draw(): void {
    this.frames.splice(0).forEach(call => call());
  }
}

type Body<T> = T extends unknown ? Omit<T, 'view' | 'run'> : never;

class FakeSource implements Source {
  readonly view = 'me';
  sent: ToKernel[] = [];
  handlers: Handler[] = [];
  isDisposed = false;
  constructor(
    readonly kind: Source['kind'] = 'widget',
    readonly saved?: SavedRun
  ) {}
  send(message: ToKernel): void {
    this.sent.push(message);
  }
  onMessage(handler: Handler): () => void {
    this.handlers.push(handler);
    return () => (this.handlers = []);
  }
  dispose(): void {
    this.isDisposed = true;
  }
  tell(body: Body<FromKernel>, buffer?: Uint8Array, view = 'me'): void {
    this.handlers.forEach(handler => handler({ view, run: 'r', ...body } as FromKernel, buffer));
  }
  hello(): void {
    this.tell({ type: 'hello', version: 1, about: ABOUT, time_ns: 5 * S });
  }
  beat(seq: number, is_over = false, view = 'me'): void {
    this.tell({ type: 'beat', seq, time_ns: 5 * S, is_over }, undefined, view);
  }
  /** A chunk of a file, `skipped` bytes after what was sent before it. */
  chunk(seq: number, text: string, offset: number, { kind = 'stdout', skipped = 0, view = 'me' }: Options = {}): void {
    const bytes = new TextEncoder().encode(text);
    const at = { file: `0/0/0/${kind}`, kind, node: 0, round: 0, local_rank: 0, rank: 3 };
    const chunk: Chunk = { ...at, offset, size: bytes.length, time_ns: S, skipped };
    this.tell({ type: 'chunks', seq, chunks: [chunk], time_ns: 5 * S }, bytes, view);
  }
  of<T extends ToKernel['type']>(type: T): Extract<ToKernel, { type: T }>[] {
    return this.sent.filter(message => message.type === type) as Extract<ToKernel, { type: T }>[];
  }
}

interface Options {
  kind?: FileKind;
  skipped?: number;
  view?: string;
}

function setUp(source = new FakeSource(), runId?: string) {
  const clock = new FakeClock();
  const rows: MetricRow[] = [];
  const taken: string[] = [];
  const sink: Sink = {
    take: (chunk, bytes) => taken.push(`${chunk.offset}+${chunk.skipped}:${new TextDecoder().decode(bytes)}`)
  };
  const metrics = { names: [], ranks: [], series: () => undefined, progress: () => undefined };
  const stores: Stores = {
    metrics: { ...metrics, append: row => rows.push(row) },
    usage: { ...sink, last: () => undefined, history: () => [] },
    outputs: { ...sink, ranks: [], of: () => [], version: () => 0 }
  };
  const client = new RunClient(source, runId, stores, clock);
  return { source, clock, client, rows, taken };
}

test('a page asks for its run, and is live when the kernel answers', () => {
  const { source, client } = setUp(new FakeSource(), 'r');
  assert.deepEqual(source.sent, [{ view: 'me', run: 'r', type: 'open', have: {} }]);
  assert.equal(client.link, 'connecting');
  source.hello();
  assert.equal(client.link, 'live');
  assert.deepEqual(client.about, ABOUT);
});

test('each byte reaches its store once, however often it comes', () => {
  const { source, taken } = setUp();
  source.hello();
  source.chunk(1, 'abc', 0, { kind: 'outputs' });
  source.chunk(1, 'abc', 0, { kind: 'outputs' });
  source.chunk(2, 'bcde', 1, { kind: 'outputs' });
  assert.deepEqual(taken, ['0+0:abc', '3+0:de']);
});

test('after a lost message the page asks again from where it stands', () => {
  const { source, clock, taken } = setUp();
  source.hello();
  source.chunk(1, 'abc', 0, { kind: 'outputs' });
  clock.pass(2000);
  source.chunk(3, 'ghi', 6, { kind: 'outputs' });
  assert.deepEqual(source.of('open').at(-1)?.have, { '0/0/0/outputs': 3 });
  source.hello();
  source.chunk(1, 'defghi', 3, { kind: 'outputs' });
  assert.deepEqual(taken, ['0+0:abc', '3+0:defghi']);
});

test('a burst of losses asks once, not once a message', () => {
  const { source, clock } = setUp();
  source.hello();
  clock.pass(1500);
  for (let seq = 2; seq < 50; seq++) {
    source.chunk(seq, 'x', 1000 * seq);
  }
  assert.equal(source.of('open').length, 2);
});

test('what the kernel skipped is no loss', () => {
  const { source, taken, clock } = setUp();
  clock.pass(2000);
  source.hello();
  source.chunk(1, 'abc', 0, { kind: 'outputs' });
  source.chunk(2, 'xyz', 103, { kind: 'outputs', skipped: 100 });
  assert.deepEqual(taken, ['0+0:abc', '103+100:xyz']);
  assert.equal(source.of('open').length, 1);
});

test('a message whose bytes went missing counts as lost', () => {
  const { source, clock } = setUp();
  source.hello();
  clock.pass(1500);
  const chunk: Chunk = {
    file: '0/0/0/stdout',
    kind: 'stdout',
    node: 0,
    round: 0,
    local_rank: 0,
    rank: 0,
    offset: 0,
    size: 9,
    time_ns: 0,
    skipped: 0
  };
  source.tell({ type: 'chunks', seq: 1, chunks: [chunk], time_ns: 0 });
  assert.equal(source.of('open').length, 2);
});

test('messages are acknowledged each tenth, and once a second', () => {
  const { source, clock } = setUp();
  source.hello();
  for (let seq = 1; seq <= 25; seq++) {
    source.beat(seq);
  }
  clock.pass(1500);
  source.beat(26);
  assert.deepEqual(
    source.of('ack').map(({ seq }) => seq),
    [10, 20, 26]
  );
});

test('a live run that says nothing is silent, then live again', () => {
  const { source, clock, client } = setUp();
  source.hello();
  source.beat(1);
  clock.pass(5000);
  assert.equal(client.link, 'silent');
  assert.equal(source.of('open').length, 2);
  clock.pass(60_000);
  assert.ok(source.of('open').length < 9, 'it does not flood a dead kernel');
  source.hello();
  assert.equal(client.link, 'live');
});

test('a run that is over may be silent', () => {
  const { source, clock, client } = setUp();
  source.hello();
  source.beat(1, true);
  clock.pass(60_000);
  assert.equal(client.link, 'live');
  assert.equal(source.of('open').length, 1);
});

test('a page that is not heard lives on what is sent to everybody, and is heard at last', () => {
  const { source, clock, client, taken } = setUp();
  source.chunk(7, 'def', 3, { kind: 'outputs', view: '*' });
  clock.pass(4000);
  assert.equal(client.link, 'deaf');
  source.chunk(9, 'jkl', 9, { kind: 'outputs', view: '*' });
  assert.deepEqual(taken, ['3+3:def', '9+3:jkl']);
  assert.equal(source.of('ack').length, 0);
  source.hello();
  assert.equal(client.link, 'live');
  source.chunk(10, 'mno', 12, { kind: 'outputs', view: '*' });
  assert.equal(taken.length, 2);
  source.chunk(1, 'abcdefghijklmno', 0, { kind: 'outputs' });
  assert.deepEqual(taken.at(-1), '12+0:mno');
});

test('a page whose first words were lost asks again while it is not heard, a few times', () => {
  const { source, clock, client } = setUp();
  let offset = 0;
  const pass = (seconds: number) => {
    for (let i = 0; i < seconds; i += 1) {
      source.chunk(i + 1, 'a', offset++, { kind: 'outputs', view: '*' });
      clock.pass(1000);
    }
  };
  pass(2);
  assert.deepEqual([client.link, source.of('open').length], ['connecting', 2]);
  pass(60);
  assert.equal(client.link, 'deaf');
  assert.equal(source.of('open').length, 4);
  source.hello();
  assert.equal(client.link, 'live');
});

test('reading waits for its answer, in requests of 1 MB', async () => {
  const { source, client } = setUp();
  source.hello();
  const read = client.read('0/0/0/stdout', 5, 1_500_000);
  source.tell({ type: 'bytes', id: 1, file: '0/0/0/stdout', offset: 5, size_bytes: 9e9 }, new Uint8Array(1_000_000));
  await Promise.resolve();
  await Promise.resolve();
  const [first, second] = source.of('read');
  assert.deepEqual([first?.offset, first?.size, second?.offset, second?.size], [5, 1_000_000, 1_000_005, 500_000]);
  source.tell({ type: 'bytes', id: 2, file: '0/0/0/stdout', offset: 5, size_bytes: 9e9 }, new Uint8Array(7));
  assert.equal((await read).length, 1_000_007);
});

test('reading gives up on a kernel that is gone, a saved run and a closed page', async () => {
  const { source, clock, client } = setUp();
  source.hello();
  const unanswered = client.read('f', 0, 1);
  clock.pass(20_000);
  await assert.rejects(unanswered, /did not answer/);
  const closed = client.read('f', 0, 1);
  client.dispose();
  await assert.rejects(closed, /closed/);
  assert.equal(source.of('close').length, 1);
  assert.equal(source.isDisposed, true);
  await assert.rejects(setUp(new FakeSource('saved')).client.read('f', 0, 1), /saved/);
});

test('metrics come as rows, cut anywhere, with the rank that the kernel knows', () => {
  const { source, rows } = setUp();
  source.hello();
  const begun = '{"time_ns": 1, "rank": 99, "loss": 0.5}\nbroken\n[1]\n{"time_ns"';
  source.chunk(1, begun, 0, { kind: 'metrics' });
  source.chunk(2, ': 2, "loss": 0.25}\n', begun.length, { kind: 'metrics' });
  assert.deepEqual(rows, [
    { time_ns: 1, rank: 3, round: 0, loss: 0.5 },
    { time_ns: 2, rank: 3, round: 0, loss: 0.25 }
  ]);
});

test('listeners hear once a frame what changed', () => {
  const { source, clock, client } = setUp();
  const heard: Part[][] = [];
  client.onChange(changed => heard.push([...changed].sort()));
  source.hello();
  source.chunk(1, 'a\n', 0);
  source.chunk(2, 'b\n', 2);
  clock.draw();
  clock.draw();
  assert.deepEqual(heard, [['about', 'link', 'logs']]);
});

test('the present is the clock of the machine that runs, and stands still in a saved run', () => {
  const { source, clock, client } = setUp();
  source.hello();
  clock.pass(1500);
  assert.equal(client.nowNs(), 6.5 * S);
  const saved: SavedRun = { version: 1, run_id: 'r', dir: '', snapshot: EMPTY, tails: {}, saved_ns: 7 };
  assert.equal(setUp(new FakeSource('saved', saved)).client.nowNs(), 7);
});

test('what is meant for other views and runs is not heard', () => {
  const { source, client } = setUp(new FakeSource(), 'other');
  source.hello();
  assert.equal(client.about, undefined);
  source.tell({ type: 'stopping', ok: true, text: '' }, undefined, 'you');
  assert.equal(client.stopping, undefined);
});

test('a stop is sent with its grace, and its answer shown', () => {
  const { source, client } = setUp();
  client.stop(5);
  assert.deepEqual(source.of('stop'), [{ view: 'me', type: 'stop', grace_s: 5 }]);
  source.tell({ type: 'stopping', ok: false, text: 'not mine' });
  assert.deepEqual(client.stopping, { ok: false, text: 'not mine' });
});

const REPORT = { time_ns: S, cause: 'asked', headline: 'all wait', advice: '', kind: '', groups: [] };

test('stacks are asked for, and the answer is kept until a newer one comes', () => {
  const { source, client, clock } = setUp(new FakeSource(), 'r');
  source.hello();
  client.askStacks();
  assert.deepEqual(source.of('stacks'), [{ view: 'me', run: 'r', type: 'stacks' }]);
  assert.equal(client.stacks.isAsked, true);
  source.tell({ type: 'stacks', ok: true, text: 'all wait', report: REPORT });
  assert.deepEqual(client.stacks, { isAsked: false, report: REPORT, error: '' });
  client.askStacks();
  source.tell({ type: 'stacks', ok: false, text: 'PermissionError: no', report: null });
  assert.deepEqual(client.stacks, { isAsked: false, report: REPORT, error: 'PermissionError: no' });
  client.dropStacks();
  assert.deepEqual(client.stacks, { isAsked: false, report: undefined, error: '' });
  clock.pass(60_000);
  assert.equal(client.stacks.error, '', 'nothing was asked, so nothing is missing');
});

test('a kernel that never tells where the ranks are is not waited for for ever', () => {
  const { source, client, clock } = setUp();
  source.hello();
  client.askStacks();
  clock.pass(19_000);
  assert.equal(client.stacks.isAsked, true);
  clock.pass(1_500);
  assert.equal(client.stacks.isAsked, false);
  assert.match(client.stacks.error, /^The kernel did not answer/);
});

test('a kernel that hears nothing is not asked for stacks in vain', () => {
  const { source, client, clock } = setUp();
  source.beat(1, false, '*');
  clock.pass(4000);
  assert.equal(client.link, 'deaf');
  client.askStacks();
  assert.equal(source.of('stacks').length, 0);
  assert.match(client.stacks.error, /only when its cell is over/);
});

test('a kernel with an older package lacks fields, and its run is drawn all the same', () => {
  const { source, client } = setUp();
  source.hello();
  const old = { run_id: 'r', state: 'running', workers: [] } as unknown as typeof EMPTY;
  source.tell({ type: 'state', seq: 1, snapshot: old, time_ns: S });
  assert.deepEqual([client.snapshot.state, client.snapshot.hang, client.snapshot.reasons], ['running', null, []]);
});
