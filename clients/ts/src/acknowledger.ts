import { setTimeout as sleep } from 'node:timers/promises';

// A busy stream has hundreds of batches a second; only the newest cursor counts.
const intervalMs = 100;

/** Acknowledges what a stream has taken: one call at a time, each with the newest cursor, and the last one before it ends. */
export class Acknowledger {
  readonly #send: (cursor: string) => Promise<void>;
  readonly #onError: ((error: unknown) => void) | undefined;
  readonly #ending = new AbortController();
  #newest: string | undefined;
  #running: Promise<void> | undefined;

  constructor(send: (cursor: string) => Promise<void>, onError: ((error: unknown) => void) | undefined) {
    this.#send = send;
    this.#onError = onError;
  }

  moved(cursor: string): void {
    this.#newest = cursor;
    this.#running ??= this.#run();
  }

  /** Resolves when the last cursor is acknowledged, or could not be. */
  async end(): Promise<void> {
    this.#ending.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#newest !== undefined) {
      const cursor = this.#newest;
      this.#newest = undefined;
      try {
        await this.#send(cursor);
      } catch (error) {
        this.#onError?.(error);
      }
      await sleep(intervalMs, undefined, { signal: this.#ending.signal, ref: false }).catch(() => {});
    }
    this.#running = undefined;
  }
}
