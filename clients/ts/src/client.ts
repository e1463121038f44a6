import {
  Client,
  Metadata,
  credentials as grpcCredentials,
  type CallOptions as GrpcCallOptions,
  type ChannelCredentials,
  type ChannelOptions,
  type ClientReadableStream,
  type MethodDefinition,
} from '@grpc/grpc-js';
import { Acknowledger } from './acknowledger.js';
import { ShardControlError, toShardControlError } from './errors.js';
import { EventBatch, type Gap, type ShardEvent } from './events.js';
import {
  AckRequest,
  CancelRescaleRequest,
  EventBatch as WireBatch,
  EventsRequest,
  KillRequest,
  LocateRequest,
  RescaleRequest,
  SendRequest,
  ShardControlService,
  SpawnRequest,
  StartFrom,
  StatsRequest,
  WatchRequest,
  type CancelRescaleResponse,
  type KillResponse,
  type LocateResponse,
  type RescaleResponse,
  type SendResponse,
  type SpawnResponse,
  type StatsResponse,
} from './gen/shardd/v1/shardd.js';
import { resume, throwIfAborted, type ResumeOptions } from './stream.js';

const unaryTimeoutMs = 30_000;
// The server sends at least an empty batch every 5 s.
const eventsIdleTimeoutMs = 20_000;
const defaultWatchIntervalMs = 10_000;
// Of what is acknowledged in passing: leaving a loop waits for the last one.
const ackTimeoutMs = 5_000;

export interface ShardClientOptions {
  /** `HOST:PORT` or `unix:PATH`. */
  address: string;
  /** Default: none on loopback and unix sockets. Anywhere else say what you want, if need be `credentials.createInsecure()`. */
  credentials?: ChannelCredentials | undefined;
  /** Of grpc-js; these win over the defaults of this client. */
  channelOptions?: ChannelOptions | undefined;
}

/** The last parameter of every call. */
export interface CallOptions {
  /** Ends the call with CANCELLED. */
  signal?: AbortSignal | undefined;
  /** Ends the call with DEADLINE_EXCEEDED. Default: 30 s; none for streams. */
  timeoutMs?: number | undefined;
}

export interface StreamOptions extends CallOptions {
  /** Told each time the stream has broken and will be opened again, so that nobody waits for a server without knowing. */
  onDisconnect?: ((error: ShardControlError, retryInMs: number) => void) | undefined;
  /** Told when an acknowledgement of a named consumer failed. The next one makes up for it; until then more would come again. */
  onAckError?: ((error: unknown) => void) | undefined;
}

export interface ShardSelection {
  /** Default: all. */
  shardIds?: readonly number[] | undefined;
  /** Which generation the ids belong to. Default: the one in charge. */
  shardCount?: number | undefined;
}

export interface KillOptions extends ShardSelection {
  /** True: a later spawn resumes the session. Default: the session ends, and the bot goes offline there at once. */
  keepSession?: boolean | undefined;
}

/** The count that should be. Without `shardCount`: by the guilds that a shard should have, else as Discord recommends. */
export interface RescaleOptions {
  shardCount?: number | undefined;
  /** 1 to 2500. Default: --guilds-per-shard of the server. */
  guildsPerShard?: number | undefined;
  /** True: only the plan, and nothing is started. */
  dryRun?: boolean | undefined;
}

/** Where a command goes: to a shard, or to the one that holds a guild. */
export type SendTarget = { shardId: number } | { guildId: bigint | string };

export interface SendOptions {
  /** Presence, voice state, request members, request soundboard sounds, request channel info. */
  op: 3 | 4 | 8 | 31 | 43;
  /** The payload's `d`: an object, or its JSON, which is sent as it is. */
  data: object | string;
  /** Which generation is meant. Default: the one in charge. */
  shardCount?: number | undefined;
}

export interface WatchOptions extends ShardSelection {
  /** Between two messages when nothing changes, 100 or more. Default: 10,000. */
  intervalMs?: number | undefined;
}

/** One of `count` disjoint sets of guilds: `(guildId >> 22) % count === index`. Events without a guild belong to partition 0. */
export interface Partition {
  index: number;
  count: number;
}

/** All conditions that are given must hold. */
export interface EventsFilter {
  /** Discord's names and shardd's (`SHARDD_...`). Default: all. */
  types?: readonly string[] | undefined;
  /** Guilds that Discord's formula gives to these shards of `shardCount`. Default: all. */
  shardIds?: readonly number[] | undefined;
  /** What `shardIds` are meant with, whatever count runs. Default: the count that runs when the stream starts. */
  shardCount?: number | undefined;
  /** Only these guilds; events without a guild never match. Default: all. */
  guildIds?: readonly (bigint | string)[] | undefined;
  partition?: Partition | undefined;
}

export interface EventsOptions {
  /**
   * A name under which the server keeps where this reader stands, also while this program is away; one reader at a time for each
   * (name, partition). What the loop has taken as a whole is acknowledged by itself. A stream that ends with ABORTED and
   * CONSUMER_TAKEN_OVER was replaced by a newer one of the same name.
   */
  consumer?: string | undefined;
  /** Which events to get. Default: all. */
  filter?: EventsFilter | undefined;
  /** Where to go on: the cursor of the last batch that was processed. Wins over `from`. */
  cursor?: string | undefined;
  /** Where to start without a cursor. Default: where the consumer stands, else `latest`, the events that come from now on. */
  from?: 'earliest' | 'latest' | undefined;
  /** First, marked `snapshot`, what has made the guilds what they are. */
  snapshot?: boolean | undefined;
  /** Most events in a batch. Default and most: 4096. */
  maxBatchEvents?: number | undefined;
  /** Bytes after which a batch is full; a larger event goes out alone. Default: 64 KiB; most: 4 MiB. */
  maxBatchBytes?: number | undefined;
  /** An event with more `data` comes with none; see `ShardEvent.dataOmitted`. Default: no limit. */
  maxEventBytes?: number | undefined;
  /** How long a batch may wait for company. Default: not at all. */
  maxDelayMs?: number | undefined;
}

/**
 * The events of a log, to be read once with `for await`. Leaving the loop frees the stream on the server.
 *
 * When the connection breaks or the server restarts, it goes on behind the last batch that was taken as a whole. Batches that
 * had arrived but were not taken are thrown away and come again, so nothing is lost and nothing comes twice.
 */
export class EventStream<T> implements AsyncIterableIterator<T> {
  readonly #generator: AsyncGenerator<T, void, undefined>;
  readonly #abort: AbortController;
  readonly #position: { cursor: string | undefined };

  /** Made by ShardClient. */
  constructor(generator: AsyncGenerator<T, void, undefined>, abort: AbortController, position: { cursor: string | undefined }) {
    this.#generator = generator;
    this.#abort = abort;
    this.#position = position;
  }

  /**
   * Where to go on after a restart of this program: behind the last batch of which every event was taken, and the loop came back
   * for more. So what was in hand when the program died comes again (at least once): drop it by offset where that matters.
   */
  get cursor(): string | undefined {
    return this.#position.cursor;
  }

  next(): Promise<IteratorResult<T, void>> {
    return this.#generator.next();
  }

  return(): Promise<IteratorResult<T, void>> {
    this.#abort.abort();
    return this.#generator.return();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

/** A connection to one shardd server. It connects by itself when it is first used. */
export class ShardClient {
  readonly #client: Client;
  readonly #open = new Set<AbortController>();
  #closed = false;

  constructor({ address, credentials, channelOptions }: ShardClientOptions) {
    const local = /^(unix:|((localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$))/.test(address);
    if (!credentials && !local) {
      throw new TypeError(
        `${address} is not on this machine, so say how to reach it: credentials.createSsl(), or credentials.createInsecure() ` +
          'where the network between is yours alone',
      );
    }
    this.#client = new Client(address, credentials ?? grpcCredentials.createInsecure(), {
      'grpc.max_receive_message_length': 64 * 1024 * 1024,
      'grpc-node.flow_control_window': 4 * 1024 * 1024,
      // The channel tries more often than the streams do, so that a stream's next try finds it connected.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1_000,
      ...(local ? { 'grpc.enable_http_proxy': 0 } : {}),
      ...channelOptions,
    });
  }

  /** Starts shards, all of the generation by default. Returns when they are accepted, not when they are READY. */
  spawn(request: ShardSelection = {}, options: CallOptions = {}): Promise<SpawnResponse> {
    return this.#unary(ShardControlService.spawn, SpawnRequest.fromPartial(selection(request)), options);
  }

  /** Stops shards, all by default. */
  kill(request: KillOptions = {}, options: CallOptions = {}): Promise<KillResponse> {
    const message = KillRequest.fromPartial({ ...selection(request), keepSession: request.keepSession ?? false });
    return this.#unary(ShardControlService.kill, message, options);
  }

  /**
   * Changes the shard count under load: nothing is lost, doubled or reordered within a guild, and streams read on. Resolved when it is
   * accepted: `stats`, `watch` and SHARDD_RESCALE events tell how far it is. May be called again and again with the same count.
   */
  rescale(request: RescaleOptions = {}, options: CallOptions = {}): Promise<RescaleResponse> {
    const { shardCount = 0, guildsPerShard = 0, dryRun = false } = request;
    return this.#unary(ShardControlService.rescale, RescaleRequest.fromPartial({ shardCount, guildsPerShard, dryRun }), options);
  }

  /** Goes back to the old count, until the switch; RESCALE_SWITCHED: too late. With none under way it changes nothing. */
  cancelRescale(options: CallOptions = {}): Promise<CancelRescaleResponse> {
    return this.#unary(ShardControlService.cancelRescale, CancelRescaleRequest.fromPartial({}), options);
  }

  /** What runs and how it is; cheap enough to poll each second. */
  stats(request: ShardSelection = {}, options: CallOptions = {}): Promise<StatsResponse> {
    return this.#unary(ShardControlService.stats, StatsRequest.fromPartial(selection(request)), options);
  }

  /** The shard that gets a guild's events, by the server's running count unless another is given. */
  locate(guildId: bigint | string, request: { shardCount?: number | undefined } = {}, options: CallOptions = {}): Promise<LocateResponse> {
    const message = LocateRequest.fromPartial({ guildId: BigInt(guildId), shardCount: request.shardCount ?? 0 });
    return this.#unary(ShardControlService.locate, message, options);
  }

  /**
   * Sends a gateway command under Discord's limits, and waits where need be until `timeoutMs` is over. Resolved: it was handed to
   * Discord's socket, once. RESOURCE_EXHAUSTED: it cannot go in that time; `retryAfterMs` says when it can.
   */
  send(target: SendTarget, request: SendOptions, options: CallOptions = {}): Promise<SendResponse> {
    const { op, data, shardCount } = request;
    const message = SendRequest.fromPartial({
      target: 'shardId' in target ? { $case: 'shardId', shardId: target.shardId } : { $case: 'guildId', guildId: BigInt(target.guildId) },
      op,
      data: Buffer.from(typeof data === 'string' ? data : JSON.stringify(data)),
      shardCount: shardCount ?? 0,
    });
    return this.#unary(ShardControlService.send, message, options);
  }

  /**
   * Moves a named consumer's cursor. `events` and `batches` do so by themselves; this is for who processes behind the loop, reading
   * without a name of its own.
   */
  async ack(consumer: string, cursor: string, partition?: Partition, options: CallOptions = {}): Promise<void> {
    await this.#unary(ShardControlService.ack, AckRequest.fromPartial({ consumer, cursor, partition }), options);
  }

  /** `stats` as a stream: at once, at each interval and when a shard changes state. Opens itself again when it breaks. */
  async *watch(request: WatchOptions = {}, options: StreamOptions = {}): AsyncGenerator<StatsResponse, void, undefined> {
    const intervalMs = request.intervalMs ?? defaultWatchIntervalMs;
    const message = WatchRequest.fromPartial({
      ...selection(request),
      interval: { seconds: BigInt(Math.floor(intervalMs / 1000)), nanos: Math.round((intervalMs % 1000) * 1e6) },
    });
    yield* this.#stream(ShardControlService.watch, () => message, 3 * intervalMs + 10_000, new AbortController(), options);
  }

  /** Reads the log, event by event. A `Gap` (`kind` `gap`) stands where events are missing: look for it. */
  events(request: EventsOptions = {}, options: StreamOptions = {}): EventStream<ShardEvent | Gap> {
    const position = { cursor: request.cursor };
    const abort = new AbortController();
    const batches = this.#batches(request, options, position, abort);
    const items = async function* (): AsyncGenerator<ShardEvent | Gap, void, undefined> {
      for await (const batch of batches) {
        if (batch.gap) yield batch.gap;
        for (const event of batch.events) yield event;
      }
    };
    return new EventStream(items(), abort, position);
  }

  /**
   * Reads the log, batch by batch: costs less an event than `events`, and each batch brings the cursor to keep once it is
   * processed. Empty batches come too, since they move the cursor.
   */
  batches(request: EventsOptions = {}, options: StreamOptions = {}): EventStream<EventBatch> {
    const position = { cursor: request.cursor };
    const abort = new AbortController();
    return new EventStream(this.#batches(request, options, position, abort), abort, position);
  }

  /** Ends all calls and streams with CANCELLED and closes the connection. */
  close(): void {
    this.#closed = true;
    for (const call of this.#open) call.abort(closedError());
    this.#client.close();
  }

  async *#batches(
    request: EventsOptions,
    options: StreamOptions,
    position: { cursor: string | undefined },
    abort: AbortController,
  ): AsyncGenerator<EventBatch, void, undefined> {
    const { consumer, filter } = request;
    let snapshot = request.snapshot ?? false;
    let snapshotBegan = false;
    const message = (): EventsRequest =>
      EventsRequest.fromPartial({
        consumer: consumer ?? '',
        start: startOf(position.cursor, request),
        filter: filter && {
          types: [...(filter.types ?? [])],
          shardIds: [...(filter.shardIds ?? [])],
          shardCount: filter.shardCount ?? 0,
          guildIds: (filter.guildIds ?? []).map(BigInt),
          partition: filter.partition,
        },
        maxBatchEvents: request.maxBatchEvents ?? 0,
        maxBatchBytes: request.maxBatchBytes ?? 0,
        maxEventBytes: request.maxEventBytes ?? 0,
        maxDelayMs: request.maxDelayMs ?? 0,
        snapshot,
      });
    const acks =
      consumer === undefined
        ? undefined
        : new Acknowledger((cursor) => this.ack(consumer, cursor, filter?.partition, { timeoutMs: ackTimeoutMs }), options.onAckError);
    try {
      for await (const batch of this.#stream(eventsMethod, message, eventsIdleTimeoutMs, abort, options)) {
        yield batch;
        // Only here has the consumer come back for more, so it has taken all of the batch.
        position.cursor = batch.cursor;
        const isSnapshot = batch.events.length > 0 && batch.events.every((event) => event.snapshot);
        snapshotBegan ||= isSnapshot;
        // A stream that breaks before the snapshot is whole asks for all of it again.
        if (!isSnapshot && (snapshotBegan || batch.events.length > 0)) snapshot = false;
        if (!snapshot) acks?.moved(batch.cursor);
      }
    } finally {
      await acks?.end();
    }
  }

  async *#stream<Q, R>(
    method: MethodDefinition<Q, R>,
    request: () => Q,
    idleTimeoutMs: number,
    abort: AbortController,
    options: StreamOptions,
  ): AsyncGenerator<R, void, undefined> {
    const leave = this.#enter(abort, options.signal);
    const deadline = options.timeoutMs === undefined ? Infinity : Date.now() + options.timeoutMs;
    const call: GrpcCallOptions = deadline === Infinity ? {} : { deadline };
    const { path, requestSerialize, responseDeserialize } = method;
    const stream: ResumeOptions<R> = {
      open: (): ClientReadableStream<R> =>
        this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request(), new Metadata(), call),
      signal: abort.signal,
      deadline,
      idleTimeoutMs,
      onDisconnect: options.onDisconnect,
    };
    try {
      yield* resume(stream);
    } finally {
      leave();
    }
  }

  async #unary<Q, R>(method: MethodDefinition<Q, R>, request: Q, options: CallOptions): Promise<R> {
    const abort = new AbortController();
    const leave = this.#enter(abort, options.signal);
    try {
      throwIfAborted(abort.signal);
      return await new Promise<R>((resolve, reject) => {
        const call = this.#client.makeUnaryRequest(
          method.path,
          method.requestSerialize,
          method.responseDeserialize,
          request,
          new Metadata(),
          { deadline: Date.now() + (options.timeoutMs ?? unaryTimeoutMs) },
          (error, response) => (error || response === undefined ? reject(error) : resolve(response)),
        );
        abort.signal.addEventListener('abort', () => call.cancel());
      });
    } catch (error) {
      throwIfAborted(abort.signal);
      throw toShardControlError(error);
    } finally {
      leave();
    }
  }

  // Has `abort` follow the caller's signal and close() until the returned function is called.
  #enter(abort: AbortController, signal: AbortSignal | undefined): () => void {
    const follow = (): void => abort.abort(signal?.reason);
    if (this.#closed) abort.abort(closedError());
    else if (signal?.aborted) follow();
    signal?.addEventListener('abort', follow);
    this.#open.add(abort);
    return () => {
      signal?.removeEventListener('abort', follow);
      this.#open.delete(abort);
    };
  }
}

const eventsMethod: MethodDefinition<EventsRequest, EventBatch> = {
  ...ShardControlService.events,
  responseSerialize: () => Buffer.alloc(0),
  responseDeserialize: (bytes) => new EventBatch(WireBatch.decode(bytes)),
};

function selection({ shardIds, shardCount }: ShardSelection): { shardIds: number[]; shardCount: number } {
  return { shardIds: [...(shardIds ?? [])], shardCount: shardCount ?? 0 };
}

// Unset: the server knows where the consumer stands.
function startOf(cursor: string | undefined, { consumer, from }: EventsOptions): EventsRequest['start'] {
  if (cursor !== undefined) return { $case: 'cursor', cursor };
  if (from === undefined && consumer !== undefined) return undefined;
  return { $case: 'from', from: from === 'earliest' ? StartFrom.START_FROM_EARLIEST : StartFrom.START_FROM_LATEST };
}

function closedError(): ShardControlError {
  return new ShardControlError('CANCELLED', 'the client is closed');
}
