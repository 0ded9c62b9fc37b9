import assert from 'node:assert/strict';
import { test } from 'node:test';
import chunks from '../golden/chunks.json';
import hello from '../golden/hello.json';
import runs from '../golden/runs.json';
import savedFailed from '../golden/saved_failed.json';
import savedSucceeded from '../golden/saved_succeeded.json';
import failed from '../golden/snapshot_failed.json';
import running from '../golden/snapshot_running.json';
import succeeded from '../golden/snapshot_succeeded.json';
import state from '../golden/state.json';
import { EMPTY, isFinal, openRun, savedSource } from '../src/index.js';
import type { FromKernel, Handler, Part, RunRow, SavedRun, Snapshot, Source, ToKernel } from '../src/index.js';

// What the kernel's tests write is what the page reads: one file of each shape, read here and by pytest.

const RUN_ROW: Record<keyof RunRow, string> = {
  run_id: 'string',
  name: 'string',
  state: 'string',
  entry: 'string',
  world_size: 'number',
  nodes: 'number',
  created_ns: 'number',
  finished_ns: 'number',
  dir: 'string',
  host: 'string',
  is_own: 'boolean',
  is_detached: 'boolean',
  can_stop: 'boolean'
};

/** A kernel that has already said all that it will say. */
class Said implements Source {
  readonly kind = 'widget';
  readonly view = 'v1';
  readonly asked: ToKernel[] = [];
  private handler: Handler | undefined;
  send(message: ToKernel): void {
    this.asked.push(message);
  }
  onMessage(handler: Handler): () => void {
    this.handler = handler;
    return () => (this.handler = undefined);
  }
  say(message: unknown, buffer?: Uint8Array): void {
    this.handler?.(message as FromKernel, buffer);
  }
  dispose(): void {}
}

test('every field that the page reads of a snapshot is in the kernel’s', () => {
  for (const snapshot of [running, failed, succeeded]) {
    for (const [name, value] of Object.entries(EMPTY)) {
      assert.ok(name in snapshot, name);
      const told = (snapshot as Record<string, unknown>)[name];
      if (value !== null && name !== 'nproc') {
        assert.equal(Array.isArray(told) ? 'array' : typeof told, Array.isArray(value) ? 'array' : typeof value, name);
      }
    }
  }
  assert.deepEqual([running, failed, succeeded].map(s => isFinal((s as unknown as Snapshot).state)), [false, true, true]);
});

test('a list of runs has what the panel draws', () => {
  assert.ok(runs.runs.length > 1);
  for (const row of runs.runs) {
    assert.deepEqual(Object.fromEntries(Object.entries(row).map(([name, value]) => [name, typeof value])), RUN_ROW);
  }
});

test('what the kernel sends for a run is taken whole: state, logs, metrics and usage', () => {
  const source = new Said();
  const data = openRun(source, hello.run);
  source.say(hello);
  source.say(state);
  source.say(chunks.message, Buffer.from(chunks.buffer_base64, 'base64'));
  assert.equal(data.about?.run_id, hello.run);
  assert.deepEqual(data.snapshot, state.snapshot);
  assert.deepEqual(source.asked.map(message => message.type), ['open'], 'nothing was missed, so nothing is asked for again');
  const kinds = new Set(chunks.message.chunks.map(chunk => chunk.kind));
  assert.ok(kinds.has('stdout') && data.logs.lineCount() > 0);
  assert.ok(kinds.has('metrics') && data.metrics.names.includes('loss'));
  assert.ok(kinds.has('usage') && data.usage.last(0) !== undefined);
  data.dispose();
});

test('a saved run shows its state, lines, metrics and outputs again', async () => {
  for (const saved of [savedFailed, savedSucceeded] as unknown as SavedRun[]) {
    const data = openRun(savedSource(saved), saved.run_id);
    await new Promise<void>(done => {
      const off = data.onChange((changed: ReadonlySet<Part>) => {
        if (changed.has('metrics')) {
          off();
          done();
        }
      });
    });
    assert.equal(data.link, 'saved');
    assert.equal(data.snapshot.state, saved.snapshot.state);
    assert.equal(data.nowNs(), saved.saved_ns);
    assert.ok(data.logs.lineCount() > 0);
    assert.ok(data.metrics.names.includes('loss'));
    assert.equal(data.outputs.ranks.length > 0, (saved.outputs ?? []).length > 0);
    data.dispose();
  }
});
