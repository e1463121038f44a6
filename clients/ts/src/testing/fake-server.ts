// A shardd in a few lines, for tests: a log in memory behind the real service definition.
import { once } from 'node:events';
import { Metadata, Server, ServerCredentials, status, type ServerWritableStream } from '@grpc/grpc-js';
import {
  Event,
  EventBatch,
  GapReason,
  LocateResponse,
  RescaleResponse,
  ShardControlService,
  SpawnResponse,
  StartFrom,
  StatsResponse,
  type AckRequest,
  type EventsRequest,
  type KillRequest,
  type LocateRequest,
  type RescaleRequest,
  type SendRequest,
  type ShardControlServer,
  type SpawnRequest,
  type WatchRequest,
} from '../gen/shardd/v1/shardd.js';
import { shardIdFor } from '../events.js';

export interface Failure {
  code: status;
  details: string;
  reason?: string;
  retryAfterMs?: number;
}

export class FakeServer {
  /** Of which cursors speak; another name is another log. */
  logId = 'log';
  readonly events: Event[] = [];
  batchEvents = 10;
  /** What each call is answered with instead. */
  failure: Failure | undefined;
  /** True: streams are accepted, and nothing is sent. */
  silent = false;
  /** What each Events call asked for, in order. */
  readonly requests: EventsRequest[] = [];
  readonly unary: (SpawnRequest | KillRequest | RescaleRequest | LocateRequest | SendRequest)[] = [];
  readonly acks: AckRequest[] = [];
  openStreams = 0;
  writtenBytes = 0;
  #server: Server | undefined;
  #port = 0;
  #wake = new AbortController();

  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  append(count: number, dataBytes = 0): void {
    for (let i = 0; i < count; i++) {
      const data = Buffer.from(JSON.stringify({ n: this.events.length, fill: 'x'.repeat(dataBytes) }));
      this.events.push(
        Event.fromPartial({
          offset: BigInt(this.events.length),
          shardId: 1,
          shardCount: 2,
          sequence: BigInt(this.events.length + 1),
          type: 'MESSAGE_CREATE',
          guildId: 81384788765712384n,
          data,
          dataBytes: BigInt(data.length),
          session: 1,
        }),
      );
    }
    this.#notify();
  }

  /** Picks a port at the first start and keeps it. */
  async start(): Promise<void> {
    const service: ShardControlServer = {
      spawn: (call, answer) => {
        this.unary.push(call.request);
        this.#answer(answer, SpawnResponse.fromPartial({ shards: call.request.shardIds.map((shardId) => ({ shardId })) }));
      },
      kill: (call, answer) => {
        this.unary.push(call.request);
        this.#answer(answer, { shards: [] });
      },
      locate: ({ request }, answer) => {
        this.unary.push(request);
        const shardCount = request.shardCount || 2;
        this.#answer(answer, LocateResponse.fromPartial({ shardId: shardIdFor(request.guildId, shardCount), shardCount }));
      },
      stats: (_call, answer) => this.#answer(answer, StatsResponse.fromPartial({ shardCount: 2 })),
      watch: (call) => void this.#watch(call),
      events: (call) => void this.#events(call),
      restart: (_call, answer) => this.#answer(answer, { shards: [] }),
      rescale: ({ request }, answer) => {
        this.unary.push(request);
        this.#answer(answer, RescaleResponse.fromPartial({ rescale: { toShardCount: request.shardCount } }));
      },
      cancelRescale: (_call, answer) => this.#answer(answer, { rescale: undefined }),
      ack: ({ request }, answer) => {
        this.acks.push(request);
        this.#answer(answer, {});
      },
      send: ({ request }, answer) => {
        this.unary.push(request);
        this.#answer(answer, { shardId: 7, held: { seconds: 1n, nanos: 500_000_000 } });
      },
    };
    const server = new Server({ 'grpc.max_send_message_length': -1 });
    server.addService(ShardControlService, service);
    this.#port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(this.address, ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port)));
    });
    this.#server = server;
  }

  /** Drops all connections at once, as a crash does. */
  stop(): void {
    this.#server?.forceShutdown();
    this.#server = undefined;
    this.#notify();
  }

  #notify(): void {
    const wake = this.#wake;
    this.#wake = new AbortController();
    wake.abort();
  }

  #answer<R>(answer: (error: ReturnType<typeof toServerError> | null, response?: R) => void, response: R): void {
    if (this.silent) return;
    if (this.failure) answer(toServerError(this.failure));
    else answer(null, response);
  }

  async #watch(call: ServerWritableStream<WatchRequest, StatsResponse>): Promise<void> {
    call.on('error', () => {});
    this.openStreams++;
    for (let n = 1; !call.cancelled; n++) {
      call.write(StatsResponse.fromPartial({ shardCount: n }));
      await new Promise((resolve) => setTimeout(resolve, Number(call.request.interval?.nanos ?? 0) / 1e6));
    }
    this.openStreams--;
  }

  async #events(call: ServerWritableStream<EventsRequest, EventBatch>): Promise<void> {
    this.requests.push(call.request);
    call.on('error', () => {});
    if (this.failure) {
      call.emit('error', toServerError(this.failure));
      return;
    }
    const server = this.#server;
    const gone = new AbortController();
    call.on('cancelled', () => gone.abort());
    this.openStreams++;
    try {
      await this.#deliver(call, () => gone.signal.aborted || server !== this.#server, gone.signal);
    } finally {
      this.openStreams--;
    }
  }

  async #deliver(call: ServerWritableStream<EventsRequest, EventBatch>, ended: () => boolean, gone: AbortSignal): Promise<void> {
    const { start } = call.request;
    let position = this.events.length;
    let batch = EventBatch.fromPartial({});
    if (start?.$case === 'from' && start.from === StartFrom.START_FROM_EARLIEST) position = 0;
    if (start?.$case === 'cursor') {
      const [log, offset] = start.cursor.split(':');
      position = log === this.logId ? Number(offset) : 0;
      if (log !== this.logId) {
        batch = EventBatch.fromPartial({ gap: { from: start.cursor, to: `${this.logId}:0`, reason: GapReason.GAP_REASON_OTHER_LOG } });
      }
    }
    while (!ended()) {
      const wake = this.#wake.signal;
      if (!this.silent && (batch.cursor === '' || position < this.events.length)) {
        if (batch.cursor !== '') batch = EventBatch.fromPartial({ events: this.events.slice(position, position + this.batchEvents) });
        position += batch.events.length;
        batch.cursor = `${this.logId}:${position}`;
        this.writtenBytes += EventBatch.encode(batch).finish().length;
        if (!call.write(batch)) await once(call, 'drain', { signal: gone }).catch(() => {});
      } else {
        await Promise.race([once(wake, 'abort'), once(gone, 'abort')]);
      }
    }
  }
}

function toServerError({ code, details, reason, retryAfterMs }: Failure): { code: status; details: string; metadata: Metadata } {
  const metadata = new Metadata();
  if (reason !== undefined) metadata.set('shardd-reason', reason);
  if (retryAfterMs !== undefined) metadata.set('shardd-retry-after-ms', String(retryAfterMs));
  return { code, details, metadata };
}
