export { credentials } from '@grpc/grpc-js';
export {
  EventStream,
  ShardClient,
  type CallOptions,
  type EventsFilter,
  type EventsOptions,
  type KillOptions,
  type Partition,
  type RescaleOptions,
  type SendOptions,
  type SendTarget,
  type ShardClientOptions,
  type ShardSelection,
  type StreamOptions,
  type WatchOptions,
} from './client.js';
export { ShardControlError, type StatusName } from './errors.js';
export { EventBatch, Gap, ShardEvent, shardIdFor } from './events.js';
export {
  GapReason,
  MemoryLevel,
  RescaleState,
  ShardState,
  type CancelRescaleResponse,
  type KillResponse,
  type LocateResponse,
  type LogStats,
  type RescalePlan,
  type RescaleResponse,
  type RescaleStatus,
  type SendResponse,
  type ServerInfo,
  type SessionBudget,
  type ShardStatus,
  type SpawnResponse,
  type StatsResponse,
  type Subscriber,
} from './gen/shardd/v1/shardd.js';
