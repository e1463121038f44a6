import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { Gap, ShardClient, ShardControlError, ShardEvent, type EventBatch } from './index.js';
import { FakeServer } from './testing/fake-server.js';

/** A started server with a client of it, both gone after the test. */
async function connected(use: (server: FakeServer, client: ShardClient) => Promise<void>): Promise<void> {
  const server = new FakeServer();
  await server.start();
  const client = new ShardClient({ address: server.address });
  try {
    await use(server, client);
  } finally {
    client.close();
    server.stop();
  }
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !holds(); await sleep(10)) assert.ok(Date.now() < end, `${what}: not within 10 s`);
}

function eventOf(item: ShardEvent | Gap | undefined): ShardEvent {
  assert.ok(item instanceof ShardEvent);
  return item;
}

const failsWith =
  (code: string, more: Partial<ShardControlError> = {}) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof ShardControlError, String(error));
    assert.deepEqual({ ...more, code: error.code }, { ...more, code });
    for (const [key, value] of Object.entries(more)) assert.equal(error[key as keyof ShardControlError], value);
    return true;
  };

describe('calls', { timeout: 60_000 }, () => {
  it('carries requests and responses', () =>
    connected(async (server, client) => {
      const { shards } = await client.spawn({ shardIds: [3, 4], shardCount: 16 });
      await client.kill({ shardIds: [3], keepSession: true });
      const located = await client.locate('81384788765712384', { shardCount: 1000 });

      assert.deepEqual(shards.map(({ shardId }) => shardId), [3, 4]);
      assert.deepEqual(server.unary, [
        { shardIds: [3, 4], shardCount: 16 },
        { shardIds: [3], keepSession: true, shardCount: 0 },
        { guildId: 81384788765712384n, shardCount: 1000 },
      ]);
      assert.deepEqual(located, { shardId: Number((81384788765712384n >> 22n) % 1000n), shardCount: 1000 });
      assert.equal((await client.stats()).shardCount, 2);
    }));

  it('asks for another count', () =>
    connected(async (server, client) => {
      const { rescale } = await client.rescale({ shardCount: 32, dryRun: true });
      await client.rescale({ guildsPerShard: 500 });
      await client.cancelRescale();

      assert.equal(rescale?.toShardCount, 32);
      assert.deepEqual(server.unary, [
        { shardCount: 32, guildsPerShard: 0, dryRun: true },
        { shardCount: 0, guildsPerShard: 500, dryRun: false },
      ]);
    }));

  it('sends commands to a shard or to the one of a guild', () =>
    connected(async (server, client) => {
      const sent = await client.send({ shardId: 7 }, { op: 3, data: { status: 'idle' } });
      await client.send({ guildId: '81384788765712384' }, { op: 8, data: '{"limit": 0}', shardCount: 16 });

      assert.deepEqual(sent, { shardId: 7, held: { seconds: 1n, nanos: 500_000_000 } });
      assert.deepEqual(server.unary, [
        { target: { $case: 'shardId', shardId: 7 }, op: 3, data: Buffer.from('{"status":"idle"}'), shardCount: 0 },
        { target: { $case: 'guildId', guildId: 81384788765712384n }, op: 8, data: Buffer.from('{"limit": 0}'), shardCount: 16 },
      ]);
    }));

  it('maps code, reason, retry delay and message of an error', () =>
    connected(async (server, client) => {
      server.failure = {
        code: status.RESOURCE_EXHAUSTED,
        details: 'the budget is spent; wait until 12:00',
        reason: 'SESSION_BUDGET_SPENT',
        retryAfterMs: 1500,
      };

      await assert.rejects(
        client.spawn(),
        failsWith('RESOURCE_EXHAUSTED', {
          reason: 'SESSION_BUDGET_SPENT',
          retryAfterMs: 1500,
          message: 'the budget is spent; wait until 12:00',
          retryable: false,
        }),
      );
    }));

  it('says UNAVAILABLE, without a reason, where no server is', async () => {
    const server = new FakeServer();
    await server.start();
    server.stop();
    const client = new ShardClient({ address: server.address });

    await assert.rejects(client.stats(), failsWith('UNAVAILABLE', { reason: undefined, retryable: true }));
    client.close();
  });

  it('ends with the signal, the time limit and close()', () =>
    connected(async (server, client) => {
      server.silent = true;
      const cause = new Error('enough');
      const controller = new AbortController();
      const aborted = assert.rejects(client.stats({}, { signal: controller.signal }), failsWith('CANCELLED', { cause }));
      controller.abort(cause);
      await aborted;

      await assert.rejects(client.stats({}, { signal: controller.signal }), failsWith('CANCELLED'));
      await assert.rejects(client.stats({}, { timeoutMs: 50 }), failsWith('DEADLINE_EXCEEDED'));

      const closed = assert.rejects(client.stats(), failsWith('CANCELLED', { message: 'the client is closed' }));
      client.close();
      await closed;
      await assert.rejects(client.stats(), failsWith('CANCELLED', { message: 'the client is closed' }));
      await assert.rejects(client.events().next(), failsWith('CANCELLED', { message: 'the client is closed' }));
    }));

  it('watches until it is left', () =>
    connected(async (server, client) => {
      const seen: number[] = [];
      for await (const { shardCount } of client.watch({ intervalMs: 100 })) if (seen.push(shardCount) === 3) break;

      assert.deepEqual(seen, [1, 2, 3]);
      await until('the stream is gone', () => server.openStreams === 0);
    }));

  it('goes off this machine only with credentials', () => {
    assert.throws(() => new ShardClient({ address: 'shardd.example:50051' }), /createSsl/);
    assert.throws(() => new ShardClient({ address: '127.0.0.1.example:50051' }), /createSsl/);
    for (const address of ['127.0.0.1:1', 'localhost:1', '[::1]:1', 'unix:/tmp/shardd.sock']) new ShardClient({ address }).close();
  });
});

describe('events', { timeout: 120_000 }, () => {
  it('hands over what the log holds', () =>
    connected(async (server, client) => {
      server.append(25);
      const seen: ShardEvent[] = [];
      for await (const item of client.events({ from: 'earliest', maxDelayMs: 5 })) if (seen.push(eventOf(item)) === 25) break;

      assert.deepEqual(seen.map(({ offset }) => offset), server.events.map(({ offset }) => offset));
      const [event] = seen;
      assert.ok(event);
      assert.equal(event.guild, '81384788765712384');
      assert.equal(event.sequence, 1);
      assert.deepEqual(event.json(), { n: 0, fill: '' });
      assert.ok(Buffer.isBuffer(event.data));
      assert.equal(server.requests[0]?.maxDelayMs, 5);
    }));

  it('starts at the end of the log unless told otherwise', () =>
    connected(async (server, client) => {
      server.append(5);
      const stream = client.events();
      const first = stream.next();
      await until('subscribed', () => server.openStreams === 1);
      server.append(1);

      assert.equal(eventOf((await first).value ?? undefined).offset, 5n);
      await stream.return();
    }));

  it('goes on without hole or double while the server is restarted', () =>
    connected(async (server, client) => {
      server.append(2000);
      const offsets: bigint[] = [];
      const lost: string[] = [];
      const stream = client.events({ from: 'earliest' }, { onDisconnect: ({ code }) => lost.push(code) });
      for await (const item of stream) {
        offsets.push(eventOf(item).offset);
        if (offsets.length % 333 === 0) {
          server.stop();
          await sleep(20);
          await server.start();
        }
        if (offsets.length === 2000) break;
      }

      assert.deepEqual(offsets, server.events.map(({ offset }) => offset));
      assert.ok(server.requests.length >= 4, `${server.requests.length} streams`);
      assert.ok(lost.length >= 3 && lost.every((code) => code === 'UNAVAILABLE'), lost.join());
    }));

  it('waits for a server that is not up yet', async () => {
    const server = new FakeServer();
    await server.start();
    server.stop();
    server.append(1);
    const client = new ShardClient({ address: server.address });
    const delays: number[] = [];
    const stream = client.events({ from: 'earliest' }, { onDisconnect: (_error, ms) => delays.push(ms) });
    const first = stream.next();
    await until('three tries', () => delays.length >= 3);
    await server.start();

    assert.equal(eventOf((await first).value ?? undefined).offset, 0n);
    delays.forEach((delay, n) => assert.ok(delay >= 50 * 2 ** n && delay <= 100 * 2 ** n, `${delay} ms at try ${n}`));
    client.close();
    server.stop();
  });

  it('moves the cursor when all of a batch is taken, not before', () =>
    connected(async (server, client) => {
      server.append(30);
      const stream = client.events({ from: 'earliest' });
      const seen: (string | undefined)[] = [];
      for await (const item of stream) {
        seen.push(stream.cursor);
        if (eventOf(item).offset === 15n) break;
      }
      assert.deepEqual([seen[0], seen[9], seen[10], stream.cursor], ['log:0', 'log:0', 'log:10', 'log:10']);

      const again = await client.events({ cursor: stream.cursor }).next();
      assert.equal(eventOf(again.value ?? undefined).offset, 10n);
    }));

  it('hands over batches with their cursors, the empty ones too', () =>
    connected(async (server, client) => {
      server.append(15);
      const batches: EventBatch[] = [];
      for await (const batch of client.batches({ from: 'earliest' })) if (batches.push(batch) === 3) break;

      assert.deepEqual(batches.map(({ cursor, events }) => [cursor, events.length]), [['log:0', 0], ['log:10', 10], ['log:15', 5]]);
    }));

  it('tells of a gap before the events behind it', () =>
    connected(async (server, client) => {
      server.append(3);
      const items: (ShardEvent | Gap)[] = [];
      for await (const item of client.events({ cursor: 'lost:7' })) if (items.push(item) === 2) break;

      const [gap, event] = items;
      assert.ok(gap instanceof Gap);
      assert.deepEqual({ ...gap }, { kind: 'gap', from: 'lost:7', to: 'log:0', lostEvents: undefined, reason: 'GAP_REASON_OTHER_LOG' });
      assert.equal(eventOf(event).offset, 0n);
    }));

  it('tells of the gap when the server comes back with another log', () =>
    connected(async (server, client) => {
      server.append(3);
      const stream = client.events({ from: 'earliest' });
      for (let n = 0; n < 3; n++) await stream.next();
      const next = stream.next();
      server.stop();
      server.logId = 'new';
      server.events.length = 0;
      server.append(1);
      await server.start();

      assert.ok((await next).value instanceof Gap);
      assert.equal(eventOf((await stream.next()).value ?? undefined).offset, 0n);
      await stream.return();
    }));

  it('asks for what the filter says', () =>
    connected(async (server, client) => {
      server.append(1);
      const filter = { types: ['READY'], shardIds: [1], shardCount: 2, guildIds: ['81384788765712384', 5n], partition: { index: 1, count: 3 } };
      await client.events({ from: 'earliest', filter }).next();

      assert.deepEqual(server.requests[0]?.filter, { ...filter, guildIds: [81384788765712384n, 5n] });
    }));

  it('acknowledges what the loop has taken, and leaves the start to the server', () =>
    connected(async (server, client) => {
      server.append(25);
      const partition = { index: 1, count: 2 };
      let taken = 0;
      for await (const batch of client.batches({ consumer: 'bot', filter: { partition }, cursor: 'log:0' })) {
        taken += batch.events.length;
        if (taken === 25) break; // this one is in hand, so it comes again
      }
      const last = server.acks[server.acks.length - 1];
      assert.deepEqual(last, { consumer: 'bot', cursor: 'log:20', partition });

      const next = client.events({ consumer: 'bot' });
      const first = next.next();
      await until('subscribed', () => server.requests.length === 2);
      assert.equal(server.requests[1]?.consumer, 'bot');
      assert.equal(server.requests[1]?.start, undefined);
      await Promise.all([next.return(), first.catch(() => {})]);
    }));

  it('acknowledges seldom on a busy stream, and the last batch at its end', () =>
    connected(async (server, client) => {
      server.append(1000);
      let batches = 0;
      for await (const batch of client.batches({ consumer: 'bot', from: 'earliest' })) if (++batches > 100 || batch.events.some(({ offset }) => offset === 999n)) break;

      assert.ok(server.acks.length < 50, `${server.acks.length} for ${batches} batches`);
      assert.equal(server.acks[server.acks.length - 1]?.cursor, 'log:990');
    }));

  it('tells of an acknowledgement that failed, and goes on', () =>
    connected(async (server, client) => {
      server.append(5);
      const errors: unknown[] = [];
      const stream = client.batches({ consumer: 'bot', from: 'earliest' }, { onAckError: (error) => errors.push(error) });
      await stream.next();
      server.failure = { code: status.NOT_FOUND, details: 'no such consumer', reason: 'CONSUMER_NOT_FOUND' };
      await stream.next();
      const third = stream.next();
      await until('told', () => errors.length > 0);
      failsWith('NOT_FOUND', { reason: 'CONSUMER_NOT_FOUND' })(errors[0]);
      server.failure = undefined;
      server.append(5);
      assert.equal((await third).value?.events.length, 5);
      await stream.return();
    }));

  it('asks for the snapshot until it is whole', () =>
    connected(async (server, client) => {
      server.append(3);
      server.events.forEach((event, n) => (event.snapshot = n < 2));
      server.batchEvents = 1;
      const stream = client.batches({ from: 'earliest', snapshot: true });
      for (let n = 0; n < 3; n++) await stream.next(); // an empty one, and the two of the snapshot; the second is in hand
      const next = stream.next();
      server.stop();
      await server.start();
      await next;
      while ((await stream.next()).value?.events[0]?.snapshot === true);
      const after = stream.next();
      server.stop();
      await server.start();
      await until('subscribed', () => server.openStreams === 1);
      assert.equal(server.requests[server.requests.length - 1]?.snapshot, false);
      assert.equal(server.requests[0]?.snapshot, true);
      await Promise.all([stream.return(), after.catch(() => {})]);
    }));

  it('does not try again what cannot succeed', () =>
    connected(async (server, client) => {
      server.failure = { code: status.INVALID_ARGUMENT, details: 'no cursor of shardd', reason: 'CURSOR_MALFORMED' };

      await assert.rejects(client.events({ cursor: '?' }).next(), failsWith('INVALID_ARGUMENT', { reason: 'CURSOR_MALFORMED' }));
      assert.equal(server.requests.length, 1);
    }));

  it('waits for as long as a stopping server says', () =>
    connected(async (server, client) => {
      server.failure = { code: status.UNAVAILABLE, details: 'stopping', reason: 'SERVER_STOPPING', retryAfterMs: 300 };
      const disconnects: [string | undefined, number][] = [];
      const stream = client.events({ from: 'earliest' }, { onDisconnect: ({ reason }, ms) => disconnects.push([reason, ms]) });
      const first = stream.next();
      await until('told', () => disconnects.length === 1);
      server.failure = undefined;
      server.append(1);

      assert.equal(eventOf((await first).value ?? undefined).offset, 0n);
      assert.deepEqual(disconnects, [['SERVER_STOPPING', 300]]);
      await stream.return();
    }));

  it('stops the server while the consumer is slow', () =>
    connected(async (server, client) => {
      server.append(3000, 64 * 1024);
      server.batchEvents = 1;
      const stream = client.events({ from: 'earliest' });
      await stream.next();
      await sleep(1000);
      const written = server.writtenBytes;
      await sleep(1000);

      assert.equal(server.writtenBytes, written, 'the server still writes');
      assert.ok(written < 16 * 1024 * 1024, `${written} bytes are on their way`);
      for (let n = 1; n < 1000; n++) assert.equal(eventOf((await stream.next()).value ?? undefined).offset, BigInt(n));
      await stream.return();
    }));

  it('receives messages over 4 MiB', () =>
    connected(async (server, client) => {
      server.append(1, 12 * 1024 * 1024);
      const { value } = await client.events({ from: 'earliest' }).next();

      assert.ok(eventOf(value ?? undefined).data.length > 12 * 1024 * 1024);
    }));

  for (const [how, leave] of [
    ['break', async (client: ShardClient) => { for await (const _ of client.events({ from: 'earliest' })) break; }],
    ['an error in the loop', async (client: ShardClient) => {
      await assert.rejects(async () => { for await (const _ of client.batches({ from: 'earliest' })) throw new Error('mine'); }, /mine/);
    }],
    ['return() while it waits', async (client: ShardClient) => {
      const stream = client.events();
      const waiting = assert.rejects(stream.next(), failsWith('CANCELLED'));
      await sleep(50);
      await stream.return();
      await waiting;
    }],
    ['the signal', async (client: ShardClient) => {
      const stream = client.events({}, { signal: AbortSignal.timeout(50) });
      await assert.rejects(stream.next(), failsWith('CANCELLED'));
    }],
    ['the signal between two events', async (client: ShardClient) => {
      const controller = new AbortController();
      const stream = client.batches({ from: 'earliest' }, { signal: controller.signal });
      await stream.next();
      controller.abort();
      await assert.rejects(stream.next(), failsWith('CANCELLED'));
    }],
    ['the time limit', async (client: ShardClient) => {
      await assert.rejects(client.events({}, { timeoutMs: 50 }).next(), failsWith('DEADLINE_EXCEEDED'));
    }],
  ] as const) {
    it(`frees the stream on ${how}`, () =>
      connected(async (server, client) => {
        server.append(100);
        await leave(client);

        await until('the stream is gone', () => server.requests.length === 1 && server.openStreams === 0);
      }));
  }

  it('can be aborted, and keeps its time limit, while no server is there', async () => {
    const server = new FakeServer();
    await server.start();
    server.stop();
    const client = new ShardClient({ address: server.address });

    await assert.rejects(client.events({}, { signal: AbortSignal.timeout(250) }).next(), failsWith('CANCELLED'));
    await assert.rejects(client.events({}, { timeoutMs: 250 }).next(), failsWith('DEADLINE_EXCEEDED'));
    client.close();
  });

  it('is not ended by another stream of the same client', () =>
    connected(async (server, client) => {
      server.append(1000, 64 * 1024);
      server.batchEvents = 1;
      const slow = client.events({ from: 'earliest' });
      await slow.next();
      let n = 0;
      for await (const _ of client.events({ from: 'earliest' })) if (++n === 1000) break;

      assert.equal(n, 1000);
      await slow.return();
    }));
});

describe('a silent connection', { timeout: 60_000 }, () => {
  const server = new FakeServer();
  before(() => server.start());
  after(() => server.stop());

  it('counts as lost', async (t) => {
    server.silent = true;
    server.append(1);
    const { Client, credentials, Metadata } = await import('@grpc/grpc-js');
    const { ShardControlService, EventsRequest } = await import('./gen/shardd/v1/shardd.js');
    const { resume } = await import('./stream.js');
    const client = new Client(server.address, credentials.createInsecure());
    t.after(() => client.close());
    const { path, requestSerialize, responseDeserialize } = ShardControlService.events;
    const messages: string[] = [];
    const stream = resume({
      open: () =>
        client.makeServerStreamRequest(
          path,
          requestSerialize,
          responseDeserialize,
          EventsRequest.fromPartial({ start: { $case: 'from', from: 'START_FROM_EARLIEST' } }),
          new Metadata(),
        ),
      signal: new AbortController().signal,
      deadline: Infinity,
      idleTimeoutMs: 100,
      onDisconnect: ({ message }) => {
        messages.push(message);
        server.silent = false;
      },
    });

    const { value } = await stream.next();
    assert.equal(value?.cursor, 'log:0');
    assert.deepEqual(messages, ['nothing came for 100 ms']);
    await stream.return(undefined as never);
  });
});
