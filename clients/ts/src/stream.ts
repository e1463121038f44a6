import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientReadableStream } from '@grpc/grpc-js';
import { ShardControlError, toShardControlError } from './errors.js';

const firstDelayMs = 100;
const longestDelayMs = 5_000;
const longestAskedDelayMs = 60_000;

export interface ResumeOptions<T> {
  /** Starts the call; used again after each break, so it says where to go on. */
  open(): ClientReadableStream<T>;
  signal: AbortSignal;
  /** When the whole stream ends with DEADLINE_EXCEEDED; Infinity: never. */
  deadline: number;
  /** Without a message for so long the connection counts as lost. */
  idleTimeoutMs: number;
  onDisconnect: ((error: ShardControlError, retryInMs: number) => void) | undefined;
}

/**
 * The messages of a stream that is opened again whenever it breaks for a reason that passes.
 *
 * Nothing is read ahead beyond what grpc-js holds (16 messages and the flow control window): a consumer that does not come
 * back for the next message stops the server.
 */
export async function* resume<T>(options: ResumeOptions<T>): AsyncGenerator<T, never, undefined> {
  let failures = 0;
  for (;;) {
    throwIfAborted(options.signal);
    const call = options.open();
    const cancel = (): void => call.cancel();
    const messages: AsyncIterator<T, undefined> = call[Symbol.asyncIterator]();
    let lost: ShardControlError | undefined;
    // grpc-js reports our own cancel() as an error event, when nobody listens any more.
    call.on('error', () => {});
    options.signal.addEventListener('abort', cancel);
    try {
      while (lost === undefined) {
        const next = await nextOrLost(messages, call, options);
        if (next instanceof ShardControlError) {
          lost = next;
        } else {
          failures = 0;
          yield next.message;
        }
      }
    } finally {
      options.signal.removeEventListener('abort', cancel);
      call.cancel();
      call.destroy();
    }
    const delay = Math.max(backOff(failures++), Math.min(lost.retryAfterMs ?? 0, longestAskedDelayMs));
    options.onDisconnect?.(lost, delay);
    await pause(Math.min(delay, options.deadline - Date.now()), options.signal);
    if (Date.now() >= options.deadline) throw new ShardControlError('DEADLINE_EXCEEDED', 'timeoutMs has passed', { cause: lost });
  }
}

// The next message, or the error after which the stream is to be opened again. Throws what must not be tried again.
async function nextOrLost<T>(
  messages: AsyncIterator<T, undefined>,
  call: ClientReadableStream<T>,
  { signal, idleTimeoutMs }: ResumeOptions<T>,
): Promise<{ message: T } | ShardControlError> {
  throwIfAborted(signal);
  let silent = false;
  const timer = setTimeout(() => {
    silent = true;
    call.cancel();
  }, idleTimeoutMs);
  try {
    const next = await messages.next();
    throwIfAborted(signal);
    if (!next.done) return { message: next.value };
    return new ShardControlError('UNAVAILABLE', 'the server ended the stream');
  } catch (cause) {
    throwIfAborted(signal);
    if (silent) return new ShardControlError('UNAVAILABLE', `nothing came for ${idleTimeoutMs} ms`, { cause });
    const error = toShardControlError(cause);
    if (error instanceof ShardControlError && error.retryable) return error;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

// Doubles with each failure up to the longest, less up to half of it by chance, so that a fleet does not come back as one.
function backOff(failures: number): number {
  return Math.min(firstDelayMs * 2 ** failures, longestDelayMs) * (0.5 + Math.random() / 2);
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(Math.max(ms, 0), undefined, { signal }).catch(() => throwIfAborted(signal));
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  const cause: unknown = signal.reason;
  throw cause instanceof ShardControlError ? cause : new ShardControlError('CANCELLED', 'the call was aborted', { cause });
}
