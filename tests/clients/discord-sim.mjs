import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const program = process.env.DISCORD_SIM ?? fileURLToPath(new URL('../../build/release/discord-sim', import.meta.url));

/** A running discord-sim: its address, and its orders from outside. */
export class DiscordSim {
  #process;

  /** @param {string[]} flags */
  static async start(flags) {
    const sim = new DiscordSim();
    sim.#process = spawn(program, ['--port', '0', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] });
    const failed = once(sim.#process, 'error').then(([error]) => {
      throw new Error(`cannot start ${program} (set DISCORD_SIM to another one): ${error.message}`);
    });
    const lines = createInterface({ input: sim.#process.stdout });
    const ended = once(sim.#process, 'exit').then(([code]) => {
      throw new Error(`discord-sim ended with ${code}`);
    });
    ended.catch(() => {}); // when it is stopped
    const [line] = await Promise.race([once(lines, 'line'), failed, ended]);
    const found = /^listening on (http:\S+?)\/api\/v10$/.exec(line);
    if (!found) throw new Error(`discord-sim said: ${line}`);
    sim.origin = found[1];
    return sim;
  }

  /** @param {string} order for example 'reconnect?shard=0' */
  async order(order, body) {
    const response = await fetch(`${this.origin}/simulator/${order}`, { method: 'POST', body });
    if (!response.ok) throw new Error(`${order}: ${response.status} ${await response.text()}`);
    return (await response.json()).affected;
  }

  /**
   * The order once all shards are connected. The library may take a moment, or one reconnect of its own: under load it now
   * and then finds a connection dead that is not.
   */
  async orderWhenConnected(order, shards) {
    const connected = async () => (await this.status()).sessions.filter((session) => session.connected).length;
    while ((await connected()) < shards) await new Promise((resolve) => { setTimeout(resolve, 10); });
    return this.order(order);
  }

  async status() {
    const response = await fetch(`${this.origin}/simulator/status`);
    return response.json();
  }

  /** Its exit code after SIGTERM. */
  async stop() {
    if (this.#process.exitCode !== null) return this.#process.exitCode;
    this.#process.kill('SIGTERM');
    const [code] = await once(this.#process, 'exit');
    return code;
  }
}
