// The program itself: what it says and how it ends.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { DiscordSim, program } from './discord-sim.mjs';

const run = (...flags) => spawnSync(program, flags, { encoding: 'utf8', timeout: 10_000 });

test('a bad flag ends with 2 and is named', () => {
  for (const flags of [['--port', '65536'], ['--guilds', '-1'], ['--rate', 'fast'], ['--shards', ''], ['--drop-every', '0'],
    ['--close-code', '5000'], ['--day', 'soon'], ['--replay-events', 'all'], ['--wrong', '1']]) {
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

/** Runs until `held` says so of the status, with a client that ends by a signal, in whatever state the faults have left it. */
async function runUntil(flags, held) {
  const sim = await DiscordSim.start(['--guilds', '3', '--identify-window', '0', ...flags]);
  const script = fileURLToPath(new URL('connect.mjs', import.meta.url));
  const client = spawn(process.execPath, [script, `${sim.origin}/api`], { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    while (!held(await sim.status())) await new Promise((resolve) => { setTimeout(resolve, 20); });
  } finally {
    client.kill('SIGKILL');
    assert.equal(await sim.stop(), 0);
  }
}

const scripts = [
  [['--reconnect-every', '1s'], ({ resumes }) => resumes >= 2],
  [['--drop-every', '1s'], ({ resumes }) => resumes >= 2],
  [['--close-every', '1000', '--close-code', '4002'], ({ server_closes: closes }) => closes['4002'] >= 2],
  [['--invalid-session-every', '1s'], ({ identifies }) => identifies >= 2],
  [['--invalid-session-every', '1s', '--invalid-session-resumable'], ({ resumes }) => resumes >= 1],
  [['--heartbeat-requests-every', '100ms', '--heartbeat-interval', '1h'], ({ heartbeats }) => heartbeats >= 5],
  [['--no-acks', '--heartbeat-interval', '300ms'], ({ resumes }) => resumes >= 1],
  [['--permute-keys', '--replay-events', 'discord', '--day', '1m', '--split-fragments', '3', '--drip', '1000', '--drip-pause', '1ms'],
    ({ dispatches }) => dispatches >= 50],
];
for (const [flags, held] of scripts) test(`${flags.join(' ')} does so`, { timeout: 60_000 }, () => runUntil(flags, held));
