// eris, unchanged but for the address of the gateway (its REST client speaks HTTPS only), against discord-sim.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Client } from 'eris';
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

/** @param {boolean} compress zlib-stream, which eris inflates by pako */
async function connect(compress) {
  const client = new Client(`Bot ${TOKEN}`, {
    intents: ALL_INTENTS, maxShards: 'auto', shardConcurrency: 'auto', compress, guildCreateTimeout: 500,
  });
  client.getBotGateway = async () => {
    const response = await fetch(`${sim.origin}/api/v10/gateway/bot`, { headers: { Authorization: `Bot ${TOKEN}` } });
    return response.json();
  };
  const recorder = new Recorder();
  client.on('rawWS', (payload, shardId) => {
    if (payload.op !== 0) return;
    if (payload.t === 'READY') recorder.ready += 1;
    if (payload.t === 'RESUMED') recorder.resumed += 1;
    recorder.dispatch(payload, shardId);
  });
  client.on('error', () => {});
  const ready = new Promise((resolve) => { client.once('ready', resolve); });
  await client.connect();
  await ready;
  return { client, recorder };
}

/** Its reconnects would keep the process. */
function disconnect(client) {
  client.disconnect({ reconnect: false });
}

for (const compress of [false, true]) {
  const name = compress ? 'zlib-stream' : 'no compression';

  test(`READY, guilds, dispatches and heartbeats with ${name}`, TIMEOUT, async () => {
    const { client, recorder } = await connect(compress);
    try {
      await recorder.until((r) => r.of('GUILD_CREATE').length >= GUILDS);
      assert.equal(client.guilds.size, GUILDS);
      await recorder.until((r) => r.of('MESSAGE_CREATE').length > 100);
      recorder.assertOwnGuilds(SHARDS);
      const { sessions, heartbeats } = await sim.status();
      const used = sessions.filter((session) => session.connected).map((session) => session.compression);
      assert.deepEqual(used, Array(SHARDS).fill(compress ? 'zlib-stream' : 'none'));
      while ((await sim.status()).heartbeats === heartbeats);
      recorder.assertNoHoles();
    } finally {
      disconnect(client);
    }
  });

  test(`op 7, a drop and op 9 with ${name}: resumed without a hole, and a new session`, TIMEOUT, async () => {
    const { client, recorder } = await connect(compress);
    try {
      for (const order of ['reconnect', 'drop', 'close?code=4000']) {
        const { resumed } = recorder;
        assert.equal(await sim.orderWhenConnected(order, SHARDS), SHARDS, order);
        await recorder.until((r) => r.resumed >= resumed + SHARDS);
      }
      recorder.assertNoHoles();
      assert.equal(recorder.ready, SHARDS, 'no second READY');

      const order = `invalid-session?resumable=false&shard=1&count=${SHARDS}`;
      assert.equal(await sim.orderWhenConnected(order, SHARDS), 1);
      await recorder.until((r) => r.ready === SHARDS + 1);
      assert.equal(recorder.of('READY').at(-1).shardId, 1);
      recorder.assertNoHoles();
    } finally {
      disconnect(client);
    }
  });
}

test('asks for the members of a guild', TIMEOUT, async () => {
  const { client } = await connect(false);
  try {
    const guild = client.guilds.find(() => true);
    assert.equal(await guild.fetchAllMembers(), guild.memberCount);
    assert.equal(guild.members.size, guild.memberCount);
  } finally {
    disconnect(client);
  }
});
