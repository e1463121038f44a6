// discord.js, unchanged, against discord-sim. It takes zlib-stream only through the native module zlib-sync, which needs
// Node's headers to build, so here it runs without; its own gateway code with compression is in discordjs-ws.test.mjs.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Client, Events } from 'discord.js';
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
    '--max-concurrency', String(SHARDS), '--identify-window', '0', '--heartbeat-interval', '5s',
  ]);
});
after(async () => {
  assert.equal(await sim.stop(), 0);
});

async function connect() {
  const client = new Client({
    intents: ALL_INTENTS, shards: 'auto', rest: { api: `${sim.origin}/api` },
    // Its own would wait the real Discord's five seconds before every new IDENTIFY.
    ws: { buildIdentifyThrottler: () => ({ waitForIdentify: async () => {} }) },
  });
  const recorder = new Recorder();
  client.on(Events.Raw, (payload, shardId) => recorder.dispatch(payload, shardId));
  client.on(Events.ShardReady, () => { recorder.ready += 1; recorder.check(); });
  client.on(Events.ShardResume, () => { recorder.resumed += 1; recorder.check(); });
  client.on(Events.Error, () => {});
  client.on(Events.ShardError, () => {});
  const ready = new Promise((resolve) => { client.once(Events.ClientReady, resolve); });
  await client.login(TOKEN);
  await ready;
  return { client, recorder };
}

test('READY, guilds, dispatches and heartbeats', TIMEOUT, async () => {
  const { client, recorder } = await connect();
  try {
    await recorder.until((r) => r.ready === SHARDS);
    assert.equal(client.guilds.cache.size, GUILDS);
    for (const guild of client.guilds.cache.values()) assert.ok(guild.available, guild.id);
    const { heartbeats } = await sim.status();
    await recorder.until((r) => r.of('MESSAGE_CREATE').length > 100);
    recorder.assertOwnGuilds(SHARDS);
    while ((await sim.status()).heartbeats === heartbeats);
    recorder.assertNoHoles();
  } finally {
    await client.destroy();
  }
});

test('op 7, a drop and op 9: resumed without a hole, and a new session', TIMEOUT, async () => {
  const { client, recorder } = await connect();
  try {
    await recorder.until((r) => r.ready === SHARDS);
    for (const order of ['reconnect', 'drop', 'close?code=4000', 'invalid-session?resumable=true']) {
      const { resumed } = recorder;
      assert.equal(await sim.orderWhenConnected(order, SHARDS), SHARDS, order);
      await recorder.until((r) => r.resumed >= resumed + SHARDS);
    }
    recorder.assertNoHoles();
    assert.equal(recorder.of('READY').length, SHARDS, 'no second READY');

    const order = `invalid-session?resumable=false&shard=1&count=${SHARDS}`;
    assert.equal(await sim.orderWhenConnected(order, SHARDS), 1);
    await recorder.until((r) => r.of('READY').length === SHARDS + 1);
    assert.equal(recorder.of('READY').at(-1).shardId, 1);
    recorder.assertNoHoles();
  } finally {
    await client.destroy();
  }
});

test('asks for the members of a guild', TIMEOUT, async () => {
  const { client } = await connect();
  try {
    const guild = client.guilds.cache.first();
    const members = await guild.members.fetch();
    assert.equal(members.size, guild.memberCount);
    const some = [...members.keys()].slice(0, 3);
    const found = await guild.members.fetch({ user: some, force: true });
    assert.deepEqual([...found.keys()].sort(), some.sort());
  } finally {
    await client.destroy();
  }
});

test('a wrong token is refused', TIMEOUT, async () => {
  const client = new Client({ intents: 1, rest: { api: `${sim.origin}/api` } });
  await assert.rejects(client.login('wrong'), /token/i);
  await client.destroy();
});
