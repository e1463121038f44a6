import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FakeServer } from './testing/fake-server.js';

const program = fileURLToPath(new URL('../examples/print-events.js', import.meta.url));

function run(t: TestContext, ...args: string[]) {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  const result = { child, output: '', exited: once(child, 'exit') };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (result.output += text.toString()));
  return result;
}

async function prints(result: { output: string }, text: string): Promise<void> {
  for (const end = Date.now() + 20_000; !result.output.includes(text); await new Promise((resolve) => setTimeout(resolve, 20))) {
    assert.ok(Date.now() < end, `"${text}" is not in: ${result.output}`);
  }
}

it('waits for the server, prints N events and ends with 0', async (t) => {
  const server = new FakeServer();
  await server.start();
  server.stop();
  t.after(() => server.stop());
  server.append(7);
  const bot = run(t, '--address', server.address, '--events', '5', '--from', 'earliest');
  await prints(bot, `waiting for ${server.address}`);
  await server.start();

  assert.deepEqual(await bot.exited, [0, null], bot.output);
  assert.match(bot.output, /^#0 shard 1\/2 MESSAGE_CREATE guild 81384788765712384 \?: "" \(\d+ bytes\)$/m);
  assert.match(bot.output, /#4 .*\nprinted 5 events\n$/);
});

it('goes on when the server comes back, says what is missing, and ends with 0 on SIGINT', async (t) => {
  const server = new FakeServer();
  await server.start();
  t.after(() => server.stop());
  server.append(2);
  const bot = run(t, '--address', server.address, '--from', 'earliest');
  await prints(bot, '#1 ');
  server.stop();
  server.logId = 'new';
  await server.start();
  await prints(bot, 'GAP: an unknown number of events are missing here (GAP_REASON_OTHER_LOG)');
  bot.child.kill('SIGINT');

  assert.deepEqual(await bot.exited, [0, null], bot.output);
  assert.match(bot.output, /printed 4 events\n$/);
});
