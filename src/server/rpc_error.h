#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace grpc {
class CallbackServerContext;
class Status;
}  // namespace grpc

namespace shardd::server {

// Every `shardd-reason`, documented in docs/errors.md. Stable: clients switch on them.
namespace reason {
inline constexpr std::string_view kShardNotFound = "SHARD_NOT_FOUND";
inline constexpr std::string_view kDuplicateShardId = "DUPLICATE_SHARD_ID";
inline constexpr std::string_view kShardIdOutOfRange = "SHARD_ID_OUT_OF_RANGE";
inline constexpr std::string_view kShardCountInvalid = "SHARD_COUNT_INVALID";
inline constexpr std::string_view kShardCountMismatch = "SHARD_COUNT_MISMATCH";
inline constexpr std::string_view kShardNotAssigned = "SHARD_NOT_ASSIGNED";
inline constexpr std::string_view kSessionBudgetSpent = "SESSION_BUDGET_SPENT";
inline constexpr std::string_view kGatewayNotKnown = "GATEWAY_NOT_KNOWN";
inline constexpr std::string_view kNoGeneration = "NO_GENERATION";
inline constexpr std::string_view kGuildsPerShardInvalid = "GUILDS_PER_SHARD_INVALID";
inline constexpr std::string_view kRescaleRunning = "RESCALE_RUNNING";
inline constexpr std::string_view kRescaleSwitched = "RESCALE_SWITCHED";
inline constexpr std::string_view kPartialPool = "PARTIAL_POOL";
inline constexpr std::string_view kWatchIntervalInvalid = "WATCH_INTERVAL_INVALID";
inline constexpr std::string_view kCursorMalformed = "CURSOR_MALFORMED";
inline constexpr std::string_view kCursorForeign = "CURSOR_FOREIGN";
inline constexpr std::string_view kCursorBeyondEnd = "CURSOR_BEYOND_END";
inline constexpr std::string_view kFilterInvalid = "FILTER_INVALID";
inline constexpr std::string_view kConsumerInvalid = "CONSUMER_INVALID";
inline constexpr std::string_view kConsumerNotFound = "CONSUMER_NOT_FOUND";
inline constexpr std::string_view kConsumerTakenOver = "CONSUMER_TAKEN_OVER";
inline constexpr std::string_view kTooManyConsumers = "TOO_MANY_CONSUMERS";
inline constexpr std::string_view kConsumersFailed = "CONSUMERS_FAILED";
inline constexpr std::string_view kStartInvalid = "START_INVALID";
inline constexpr std::string_view kRequestMalformed = "REQUEST_MALFORMED";
inline constexpr std::string_view kSnapshotOff = "SNAPSHOT_OFF";
inline constexpr std::string_view kSnapshotBehind = "SNAPSHOT_BEHIND";
inline constexpr std::string_view kSnapshotDamaged = "SNAPSHOT_DAMAGED";
inline constexpr std::string_view kTooManySubscribers = "TOO_MANY_SUBSCRIBERS";
inline constexpr std::string_view kSendTargetMissing = "SEND_TARGET_MISSING";
inline constexpr std::string_view kSendOpInvalid = "SEND_OP_INVALID";
inline constexpr std::string_view kSendJsonInvalid = "SEND_JSON_INVALID";
inline constexpr std::string_view kSendTooLarge = "SEND_TOO_LARGE";
inline constexpr std::string_view kSendNonceTooLong = "SEND_NONCE_TOO_LONG";
inline constexpr std::string_view kSendRateLimited = "SEND_RATE_LIMITED";
inline constexpr std::string_view kSendQueueFull = "SEND_QUEUE_FULL";
inline constexpr std::string_view kSendInterrupted = "SEND_INTERRUPTED";
inline constexpr std::string_view kShardNotRunning = "SHARD_NOT_RUNNING";
inline constexpr std::string_view kShardNotReady = "SHARD_NOT_READY";
inline constexpr std::string_view kServerStopping = "SERVER_STOPPING";
inline constexpr std::string_view kInternal = "INTERNAL";
}  // namespace reason

// A failure with its reason; `message` says what to do.
absl::Status Error(absl::StatusCode code, std::string_view reason, std::string_view message,
                   std::optional<std::chrono::milliseconds> retry_after = std::nullopt);

// The same failure with a reason, where the one who found it knows none.
absl::Status WithReason(absl::Status status, std::string_view reason,
                        std::optional<std::chrono::milliseconds> retry_after = std::nullopt);

// "" where there is none.
std::string ReasonOf(const absl::Status& status);

// The only place where a failure becomes gRPC's: its code and message, and the reason in the call's
// trailing metadata.
grpc::Status ToGrpc(const absl::Status& status, grpc::CallbackServerContext& context);

}  // namespace shardd::server
