// One shard by @discordjs/ws, connected again and again until the process is killed: node connect.mjs API
import { REST } from '@discordjs/rest';
import { WebSocketManager, WebSocketShardEvents } from '@discordjs/ws';

const rest = new REST({ version: '10', api: process.argv[2] }).setToken('any');
const manager = new WebSocketManager({
  token: 'any', intents: 1, rest, buildIdentifyThrottler: () => ({ waitForIdentify: async () => {} }),
});
manager.on(WebSocketShardEvents.Error, () => {});
manager.on(WebSocketShardEvents.SocketError, () => {});
await manager.connect();
