import type { Event as WireEvent, EventBatch as WireBatch, Gap as WireGap, GapReason } from './gen/shardd/v1/shardd.js';

/** One event of the log: a dispatch of Discord's, or something that shardd itself has to say (types that start with `SHARDD_`). */
export class ShardEvent {
  readonly kind = 'event';
  /** Discord's `t`, such as `MESSAGE_CREATE`. */
  readonly type: string;
  /** Position in the log; grows by one an event. */
  readonly offset: bigint;
  /** The shard that it came through. */
  readonly shardId: number;
  readonly shardCount: number;
  /** Number of shardd's session of that shard: a new IDENTIFY, a new number. */
  readonly session: number;
  /** Discord's `s`, which starts at 1 in each session and so stays far below 2^53; 0 for `SHARDD_` events. */
  readonly sequence: number;
  /** 0n: the event belongs to no guild. */
  readonly guildId: bigint;
  /** When the server read it from Discord; nanoseconds since 1970. */
  readonly receivedUnixNanos: bigint;
  /**
   * The JSON of `d`, byte for byte as Discord sent it. A view into the received batch, not a copy: it keeps the whole batch in
   * memory, so copy (`Buffer.from(data)`) what is kept for long.
   */
  readonly data: Buffer;
  /** Size of `data` as Discord sent it; larger than `data` only where `maxEventBytes` has left it out. */
  readonly dataBytes: number;
  /** The event is older than the stream's start and was sent so that the reader has its guilds. */
  readonly snapshot: boolean;

  constructor(event: WireEvent) {
    this.type = event.type;
    this.offset = event.offset;
    this.shardId = event.shardId;
    this.shardCount = event.shardCount;
    this.session = event.session;
    this.sequence = Number(event.sequence);
    this.guildId = event.guildId;
    this.receivedUnixNanos = event.receivedUnixNanos;
    const { data } = event;
    this.data = Buffer.isBuffer(data) ? data : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    this.dataBytes = Number(event.dataBytes);
    this.snapshot = event.snapshot;
  }

  /** The guild id as Discord's JSON writes it; undefined when the event belongs to no guild. */
  get guild(): string | undefined {
    return this.guildId === 0n ? undefined : this.guildId.toString();
  }

  get receivedAt(): Date {
    return new Date(Number(this.receivedUnixNanos / 1_000_000n));
  }

  /** True: `data` is empty because it is larger than the `maxEventBytes` that was asked for. */
  get dataOmitted(): boolean {
    return this.data.length < this.dataBytes;
  }

  /**
   * Parses `data`, anew at each call: look at `type` and `guildId` first, since parsing is most of what an event costs.
   * `T` is what the caller expects; it is not checked.
   */
  json<T = unknown>(): T {
    if (this.dataOmitted) {
      throw new Error(`the ${this.dataBytes} bytes of this ${this.type} are more than maxEventBytes and were left out`);
    }
    return JSON.parse(this.data.toString()) as T;
  }
}

/** A stretch of the log that the stream does not deliver. What comes after it is whole again. */
export class Gap {
  readonly kind = 'gap';
  /** The cursor that the stream stood at, or was asked to start from. */
  readonly from: string;
  /** The cursor at which it goes on. */
  readonly to: string;
  /** Events that are missing; undefined where that cannot be known. */
  readonly lostEvents: bigint | undefined;
  readonly reason: GapReason;

  constructor(gap: WireGap) {
    this.from = gap.from;
    this.to = gap.to;
    this.lostEvents = gap.lostEvents;
    this.reason = gap.reason;
  }
}

/** What one message of the stream holds. */
export class EventBatch {
  /** Set when events before the first one of this batch are missing. */
  readonly gap: Gap | undefined;
  /** In the log's order. May be empty: such a batch moves the cursor. */
  readonly events: readonly ShardEvent[];
  /** The position behind this batch: keep it once the batch is processed, and come back with it. Opaque. */
  readonly cursor: string;

  constructor(batch: WireBatch) {
    this.gap = batch.gap && new Gap(batch.gap);
    this.events = batch.events.map((event) => new ShardEvent(event));
    this.cursor = batch.cursor;
  }
}

/** The shard that gets a guild's events: `(guildId >> 22) % shardCount`, Discord's own formula. */
export function shardIdFor(guildId: bigint | string, shardCount: number): number {
  if (!Number.isInteger(shardCount) || shardCount < 1) throw new RangeError(`shardCount must be 1 or more, not ${shardCount}`);
  return Number((BigInt(guildId) >> 22n) % BigInt(shardCount));
}
