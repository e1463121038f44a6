// @discordjs/ws, unchanged, against discord-sim: what it survives with Discord it has to survive here.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { REST } from '@discordjs/rest';
import { CompressionMethod, WebSocketManager, WebSocketShardEvents } from '@discordjs/ws';
import { DiscordSim } from './discord-sim.mjs';
import { Recorder } from './recorder.mjs';

const TOKEN = 'a.simulated.token';
const SHARDS = 2;
const GUILDS = 60;
const ALL_INTENTS = 53608447;
const TIMEOUT = { timeout: 60_000 };

/** @type {DiscordSim} */
let sim;
before(async () => {
  sim = await DiscordSim.start([
    '--shards', String(SHARDS), '--guilds', String(GUILDS), '--rate', '300', '--token', TOKEN,
    '--max-concurrency', '2', '--identify-window', '0', '--heartbeat-interval', '5s',
  ]);
});
after(async () => {
  assert.equal(await sim.stop(), 0);
});

const orderWhenConnected = (order) => sim.orderWhenConnected(order, SHARDS);

async function connect(compression) {
  const rest = new REST({ version: '10', api: `${sim.origin}/api` }).setToken(TOKEN);
  const manager = new WebSocketManager({
    token: TOKEN, intents: ALL_INTENTS, rest, compression, helloTimeout: 5000, readyTimeout: 5000,
    // Its own would wait the real Discord's five seconds before every new IDENTIFY.
    buildIdentifyThrottler: () => ({ waitForIdentify: async () => {} }),
  });
  const recorder = new Recorder();
  manager.on(WebSocketShardEvents.Dispatch, (payload, shardId) => recorder.dispatch(payload, shardId));
  manager.on(WebSocketShardEvents.Ready, () => { recorder.ready += 1; recorder.check(); });
  manager.on(WebSocketShardEvents.Resumed, () => { recorder.resumed += 1; recorder.check(); });
  manager.on(WebSocketShardEvents.Error, () => {});
  manager.on(WebSocketShardEvents.SocketError, () => {});
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
      await recorder.until((r) => r.of('MESSAGE_CREATE').length > 100);
      recorder.assertOwnGuilds(SHARDS);
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
