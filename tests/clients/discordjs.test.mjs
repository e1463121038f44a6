// @discordjs/ws, unchanged, against discord-sim: what it survives with Discord it has to survive here.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { REST } from '@discordjs/rest';
import { CompressionMethod, WebSocketManager, WebSocketShardEvents } from '@discordjs/ws';
import { DiscordSim } from './discord-sim.mjs';

const TOKEN = 'a.simulated.token';
const SHARDS = 2;
const GUILDS = 60;
const ALL_INTENTS = 53608447;
const TIMEOUT = { timeout: 25_000 };

/** @type {DiscordSim} */
let sim;
before(async () => {
  sim = await DiscordSim.start([
    '--shards', String(SHARDS), '--guilds', String(GUILDS), '--rate', '300', '--token', TOKEN,
    '--max-concurrency', '2', '--identify-window', '0', '--heartbeat-interval', '1500',
  ]);
});
after(async () => {
  assert.equal(await sim.stop(), 0);
});

/** Everything a manager says, and waiting for some of it. */
class Recorder {
  dispatches = [];
  ready = 0;
  resumed = 0;
  #waiting = new Set();

  constructor(manager) {
    this.manager = manager;
    manager.on(WebSocketShardEvents.Dispatch, (payload, shardId) => {
      this.dispatches.push({ payload, shardId });
      this.#check();
    });
    manager.on(WebSocketShardEvents.Ready, () => { this.ready += 1; this.#check(); });
    manager.on(WebSocketShardEvents.Resumed, () => { this.resumed += 1; this.#check(); });
    manager.on(WebSocketShardEvents.Error, (error) => { this.error = error; });
    manager.on(WebSocketShardEvents.SocketError, () => {});
  }

  of(type) {
    return this.dispatches.filter(({ payload }) => payload.t === type);
  }

  until(condition) {
    return new Promise((resolve) => {
      this.#waiting.add({ condition, resolve });
      this.#check();
    });
  }

  #check() {
    for (const waiter of this.#waiting) {
      if (!waiter.condition(this)) continue;
      this.#waiting.delete(waiter);
      waiter.resolve();
    }
  }

  /**
   * Every number of every session, in order. The library notes a sequence some microtasks after it got the dispatch, so it
   * may RESUME a little before what it has seen; what comes a second time then must be what came first.
   */
  assertNoHoles() {
    const sessions = new Map();
    for (const { payload, shardId } of this.dispatches) {
      if (payload.t === 'READY') sessions.set(shardId, [undefined]);
      const seen = sessions.get(shardId);
      assert.ok(payload.s <= seen.length, `shard ${shardId}: ${payload.t} has s=${payload.s} after ${seen.length - 1}`);
      if (payload.s === seen.length) seen.push(payload);
      else assert.deepEqual(payload, seen[payload.s]);
    }
  }
}

/**
 * The order once all shards are connected. The library may take a moment, or one reconnect of its own: under load it now and
 * then finds a connection dead that is not.
 */
async function orderWhenConnected(order) {
  const connected = async () => (await sim.status()).sessions.filter((session) => session.connected).length;
  while ((await connected()) < SHARDS) await new Promise((resolve) => { setTimeout(resolve, 10); });
  return sim.order(order);
}

async function connect(compression) {
  const rest = new REST({ version: '10', api: `${sim.origin}/api` }).setToken(TOKEN);
  const manager = new WebSocketManager({
    token: TOKEN, intents: ALL_INTENTS, rest, compression, helloTimeout: 5000, readyTimeout: 5000,
    // Its own would wait the real Discord's five seconds before every new IDENTIFY.
    buildIdentifyThrottler: () => ({ waitForIdentify: async () => {} }),
  });
  const recorder = new Recorder(manager);
  await manager.connect();
  return { manager, recorder };
}

for (const compression of [null, CompressionMethod.ZlibNative]) {
  const name = compression === null ? 'no compression' : 'zlib-stream';

  test(`two shards with ${name}: READY, guilds, dispatches, heartbeats`, TIMEOUT, async () => {
    const { manager, recorder } = await connect(compression);
    try {
      await recorder.until((r) => r.ready === SHARDS && r.of('GUILD_CREATE').length >= GUILDS);
      const guilds = new Set(recorder.of('GUILD_CREATE').map(({ payload }) => payload.d.id));
      assert.equal(guilds.size, GUILDS);
      for (const { payload, shardId } of recorder.of('READY')) {
        assert.deepEqual(payload.d.shard, [shardId, SHARDS]);
        for (const { id } of payload.d.guilds) assert.equal(Number((BigInt(id) >> 22n) % BigInt(SHARDS)), shardId);
      }
      await recorder.until((r) => r.of('MESSAGE_CREATE').length > 100);
      for (const { payload, shardId } of recorder.of('MESSAGE_CREATE')) {
        assert.equal(Number((BigInt(payload.d.guild_id) >> 22n) % BigInt(SHARDS)), shardId);
      }
      const seen = (await sim.status()).heartbeats;
      await new Promise((resolve) => { manager.once(WebSocketShardEvents.HeartbeatComplete, resolve); });
      assert.ok((await sim.status()).heartbeats > seen);
      recorder.assertNoHoles();
    } finally {
      await manager.destroy();
    }
  });

  test(`op 7, a drop and op 9 with ${name}: resumed without a hole`, TIMEOUT, async () => {
    const { manager, recorder } = await connect(compression);
    try {
      await recorder.until((r) => r.ready === SHARDS);
      for (const order of ['reconnect', 'drop', 'close?code=4000', 'invalid-session?resumable=true']) {
        const { resumed } = recorder;
        assert.equal(await orderWhenConnected(order), SHARDS, order);
        await recorder.until((r) => r.resumed >= resumed + SHARDS);
        const { length } = recorder.dispatches;
        await recorder.until((r) => r.dispatches.length > length + 20);
      }
      recorder.assertNoHoles();
      assert.equal(recorder.ready, SHARDS, 'no second READY');

      assert.equal(await orderWhenConnected(`invalid-session?resumable=false&shard=1&count=${SHARDS}`), 1);
      await recorder.until((r) => r.ready === SHARDS + 1);
      assert.equal(recorder.of('READY').at(-1).shardId, 1);
      recorder.assertNoHoles();
    } finally {
      await manager.destroy();
    }
  });
}

test('a message of a megabyte arrives whole', TIMEOUT, async () => {
  const { manager, recorder } = await connect(CompressionMethod.ZlibNative);
  try {
    await recorder.until((r) => r.ready === SHARDS);
    const text = '\u{1F525}"\\ '.repeat(200_000);
    await sim.order('emit?type=SIMULATED&guild=0', JSON.stringify({ text }));
    await recorder.until((r) => r.of('SIMULATED').length > 0);
    assert.equal(recorder.of('SIMULATED')[0].payload.d.text, text);
    assert.equal(recorder.of('SIMULATED')[0].shardId, 0);
  } finally {
    await manager.destroy();
  }
});

test('a wrong token is refused', TIMEOUT, async () => {
  const rest = new REST({ version: '10', api: `${sim.origin}/api` }).setToken('wrong');
  const manager = new WebSocketManager({ token: 'wrong', intents: 1, rest });
  await assert.rejects(manager.connect(), /401/);
});
