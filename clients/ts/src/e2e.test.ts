// Against the real server with its simulator: SHARDD_BINARY=../../build/release/shardd npm test
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { it, type TestContext } from 'node:test';
import { ShardClient, ShardEvent, shardIdFor, type EventBatch } from './index.js';

const binary = process.env['SHARDD_BINARY'];
const skip = binary === undefined ? 'SHARDD_BINARY does not name the server to test' : false;

async function startServer(t: TestContext, ...flags: string[]): Promise<string> {
  assert.ok(binary);
  const all = ['--simulate', '--simulate-guilds', '50', '--simulate-rate', '500', '--listen', '127.0.0.1:0', '--admin-listen', '127.0.0.1:0', ...flags];
  const server = spawn(binary, all, { stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = once(server, 'exit');
  t.after(async () => {
    server.kill('SIGTERM');
    const timer = setTimeout(() => server.kill('SIGKILL'), 10_000);
    await exited;
    clearTimeout(timer);
  });
  let log = '';
  server.stderr.on('data', (text: Buffer) => (log += text.toString()));
  const lines = createInterface({ input: server.stdout });
  const address = (async () => {
    for await (const line of lines) {
      const listening = /^listening on (\S+)/.exec(line)?.[1];
      if (listening !== undefined) return listening;
    }
    throw new Error(`the server ended before it listened: ${log}`);
  })();
  const found = await address;
  server.stdout.resume();
  return found;
}

const isDispatch = (event: ShardEvent): boolean => !event.type.startsWith('SHARDD_');

it('receives READY, GUILD_CREATEs and 500 dispatches without a hole', { skip, timeout: 120_000 }, async (t) => {
  const client = new ShardClient({ address: await startServer(t, '--shard-count', '2') });
  t.after(() => client.close());
  const types = new Map<string, number>();
  let expected: bigint | undefined;
  let dispatches = 0;
  for await (const event of client.events({ from: 'earliest' })) {
    assert.ok(event instanceof ShardEvent, `a gap: ${JSON.stringify(event, (_key, value: unknown) => String(value))}`);
    assert.equal(event.offset, expected ?? event.offset);
    expected = event.offset + 1n;
    assert.equal(event.dataBytes, event.data.length);
    assert.equal(typeof event.json(), 'object', event.type);
    types.set(event.type, (types.get(event.type) ?? 0) + 1);
    if (!isDispatch(event)) continue;
    assert.equal(event.shardCount, 2);
    assert.ok(event.sequence > 0);
    if (event.guildId !== 0n) assert.equal(event.shardId, shardIdFor(event.guildId, 2));
    if (++dispatches >= 500 && types.get('READY') === 2 && types.has('GUILD_CREATE')) break;
  }

  const { shards, shardCount } = await client.stats();
  assert.equal(shardCount, 2);
  assert.deepEqual(shards.map(({ shardId, state }) => [shardId, state]), [[0, 'SHARD_STATE_READY'], [1, 'SHARD_STATE_READY']]);
  assert.deepEqual(await client.locate(1n << 22n), { shardId: 1, shardCount: 2 });
  const { rescale } = await client.rescale({ shardCount: 16, dryRun: true });
  assert.equal(rescale?.state, 'RESCALE_STATE_PLANNED');
  assert.equal(rescale.plan?.identifies, 16);
  await assert.rejects(client.rescale({ shardCount: 65_536 }), { code: 'INVALID_ARGUMENT', reason: 'SHARD_COUNT_INVALID' });
});

it('goes on at its cursor with another connection, nothing lost or doubled', { skip, timeout: 120_000 }, async (t) => {
  const address = await startServer(t, '--shard-count', '1');
  const seen: bigint[] = [];
  let cursor: string | undefined;
  for (let connection = 0; connection < 4; connection++) {
    const client = new ShardClient({ address });
    const until = seen.length + 200;
    for await (const batch of client.batches({ cursor, from: 'earliest', maxBatchEvents: 16 })) {
      assert.equal(batch.gap, undefined);
      seen.push(...batch.events.map(({ offset }) => offset));
      cursor = batch.cursor;
      if (seen.length >= until) break;
    }
    client.close();
  }

  const first = seen[0];
  assert.ok(first !== undefined);
  assert.deepEqual(seen, seen.map((_offset, n) => first + BigInt(n)));
});

it('is refused with a reason', { skip, timeout: 60_000 }, async (t) => {
  const client = new ShardClient({ address: await startServer(t, '--shard-count', '1') });
  t.after(() => client.close());
  const next: Promise<IteratorResult<EventBatch, void>> = client.batches({ cursor: 'none of shardd' }).next();

  await assert.rejects(next, { code: 'INVALID_ARGUMENT', reason: 'CURSOR_MALFORMED' });
  await assert.rejects(client.spawn({ shardIds: [7] }), { code: 'INVALID_ARGUMENT', reason: 'SHARD_ID_OUT_OF_RANGE' });
  await assert.rejects(client.kill({ shardIds: [7] }), { code: 'NOT_FOUND', reason: 'SHARD_NOT_FOUND' });
});

it('goes on under its name where the last program stopped, with what its filter lets through', { skip, timeout: 120_000 }, async (t) => {
  const address = await startServer(t, '--shard-count', '1');
  const filter = { types: ['MESSAGE_CREATE'] };
  const seen: bigint[] = [];
  for (let program = 0; program < 3; program++) {
    const client = new ShardClient({ address });
    const until = seen.length + 30;
    for await (const batch of client.batches({ consumer: 'bot', filter, maxBatchEvents: 5 })) {
      assert.equal(batch.gap, undefined);
      if (seen.length >= until) break; // in hand, so it comes again
      for (const { type, offset } of batch.events) {
        assert.equal(type, 'MESSAGE_CREATE');
        seen.push(offset);
      }
    }
    client.close();
  }

  assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => (a < b ? -1 : 1)));
});

it('is told when another stream of its name takes over', { skip, timeout: 60_000 }, async (t) => {
  const client = new ShardClient({ address: await startServer(t, '--shard-count', '1') });
  t.after(() => client.close());
  const older = client.batches({ consumer: 'bot' });
  await older.next();
  // At once, since a rejection that nobody waits for yet ends the test.
  const end = assert.rejects(
    (async () => {
      for await (const batch of older) void batch;
    })(),
    { code: 'ABORTED', reason: 'CONSUMER_TAKEN_OVER' },
  );
  const newer = client.batches({ consumer: 'bot' });
  await newer.next();

  await end;
  await newer.return();
});
