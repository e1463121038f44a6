// The program itself: what it says and how it ends.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { DiscordSim, program } from './discord-sim.mjs';

const run = (...flags) => spawnSync(program, flags, { encoding: 'utf8', timeout: 10_000 });

test('a bad flag ends with 2 and is named', () => {
  for (const flags of [['--port', '65536'], ['--guilds', '-1'], ['--rate', 'fast'], ['--shards', ''], ['--wrong', '1']]) {
    const { status, stderr } = run(...flags);
    assert.equal(status, 2, flags.join(' '));
    assert.ok(stderr.includes(flags[0]), stderr);
  }
});

test('a port in use ends with 1 and is named', async () => {
  const sim = await DiscordSim.start([]);
  try {
    const { port } = new URL(sim.origin);
    const { status, stderr } = run('--port', port);
    assert.equal(status, 1);
    assert.match(stderr, new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}`));
  } finally {
    assert.equal(await sim.stop(), 0);
  }
});
