import { status as grpcStatus, Metadata, type ServiceError } from '@grpc/grpc-js';

/** Name of a gRPC status, such as `UNAVAILABLE`. */
export type StatusName = keyof typeof grpcStatus;

/** The one error that this client throws for a call that failed. */
export class ShardControlError extends Error {
  override readonly name = 'ShardControlError';
  /** gRPC status. `CANCELLED`: the caller's signal, or `close()`. */
  readonly code: StatusName;
  /**
   * shardd's stable word for what went wrong, such as `SHARD_NOT_FOUND` (docs/errors.md lists them). Undefined when the
   * status is not shardd's own: the connection broke, the deadline passed, the call was cancelled.
   */
  readonly reason: string | undefined;
  /** For how long to wait before another try, where the server says that waiting helps. */
  readonly retryAfterMs: number | undefined;

  constructor(
    code: StatusName,
    message: string,
    details: { reason?: string | undefined; retryAfterMs?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.reason = details.reason;
    this.retryAfterMs = details.retryAfterMs;
  }

  /** True: the same call may succeed later, since the server was not there or is about to stop. */
  get retryable(): boolean {
    return this.code === 'UNAVAILABLE';
  }
}

/** Turns what grpc-js reports into a ShardControlError; anything else passes through as it is. */
export function toShardControlError(error: unknown): unknown {
  if (error instanceof ShardControlError || !isServiceError(error)) return error;
  const reason = metadataText(error.metadata, 'shardd-reason');
  const retryAfter = Number(metadataText(error.metadata, 'shardd-retry-after-ms'));
  return new ShardControlError(codeOf(error, reason), error.details || error.message, {
    reason,
    retryAfterMs: Number.isFinite(retryAfter) && retryAfter >= 0 ? retryAfter : undefined,
    cause: error,
  });
}

// A connection that breaks under a call is not always UNAVAILABLE in grpc-js: a reset stream becomes CANCELLED or INTERNAL.
// Calls that this client cancels itself never come here.
function codeOf(error: ServiceError, reason: string | undefined): StatusName {
  const name = (grpcStatus[error.code] ?? 'UNKNOWN') as StatusName;
  const reset = name === 'CANCELLED' || (name === 'INTERNAL' && error.details.includes('RST_STREAM'));
  return reset && reason === undefined ? 'UNAVAILABLE' : name;
}

function isServiceError(error: unknown): error is ServiceError {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'number' &&
    'metadata' in error &&
    error.metadata instanceof Metadata
  );
}

function metadataText(metadata: Metadata, key: string): string | undefined {
  const value = metadata.get(key)[0];
  return value === undefined ? undefined : value.toString();
}
