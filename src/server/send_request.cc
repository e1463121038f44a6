#include "server/send_request.h"

#include "absl/strings/str_cat.h"
#include "gateway/limits.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

using absl::StatusCode;

// A deadline further away is none.
constexpr std::chrono::hours kFarAway{24 * 365};

absl::Status NoSuchShard(ShardId shard) {
  return Error(StatusCode::kNotFound, reason::kShardNotFound,
               absl::StrCat("shard ", ToString(shard),
                            " was never spawned on this server: Stats lists the shards that were"));
}

absl::Status StatusOfFault(gateway::CommandFault fault, const v1::SendRequest& request) {
  switch (fault) {
    case gateway::CommandFault::kNone:
      return absl::OkStatus();
    case gateway::CommandFault::kOp:
      return Error(StatusCode::kInvalidArgument, reason::kSendOpInvalid,
                   absl::StrCat("op ", request.op(),
                                " cannot be sent: 3 (presence), 4 (voice state), 8 (members), 31 "
                                "(soundboard sounds) and 43 (channel info) can"));
    case gateway::CommandFault::kTooLarge:
      return Error(
          StatusCode::kInvalidArgument, reason::kSendTooLarge,
          absl::StrCat("data has ", request.data().size(), " bytes: Discord takes payloads of ",
                       gateway::kMaxPayloadBytes, " bytes at most, {\"op\":N,\"d\":} included"));
    case gateway::CommandFault::kNotAnObject:
      return Error(StatusCode::kInvalidArgument, reason::kSendJsonInvalid,
                   "data must be one JSON object in UTF-8: the payload's d, without op around it");
    case gateway::CommandFault::kNonce:
      return Error(StatusCode::kInvalidArgument, reason::kSendNonceTooLong,
                   absl::StrCat("the nonce has more than ", gateway::kMaxNonceBytes,
                                " bytes: Discord would drop it, and its answer could not be told "
                                "from others"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CheckedSend> ResolveSendRequest(const v1::SendRequest& request,
                                               const ShardDirector& director) {
  if (request.target_case() == v1::SendRequest::TARGET_NOT_SET) {
    return Error(StatusCode::kInvalidArgument, reason::kSendTargetMissing,
                 "set shard_id or guild_id: where the command is to be sent");
  }
  CheckedSend checked;
  const auto fault = gateway::MakeCommand(request.op(), request.data(), &checked.command);
  if (auto status = StatusOfFault(fault, request); !status.ok()) return status;

  // For shard_id the guild is any: what counts is the generation.
  const uint64_t guild_id = request.has_guild_id() ? request.guild_id() : 0;
  const auto located = director.Locate(guild_id, request.shard_count());
  if (ReasonOf(located.status()) == reason::kNoGeneration) {
    return Error(StatusCode::kNotFound, reason::kShardNotFound,
                 "no shards run here yet: call Spawn first");
  }
  if (!located.ok()) return located.status();
  checked.shard = *located;
  if (request.has_shard_id()) {
    checked.shard.id = request.shard_id();
  } else if (request.shard_count() == 0) {
    checked.guild_id = guild_id;
  }
  return checked;
}

std::optional<SteadyTime> ToSteadyDeadline(WallTime deadline, WallTime wall_now,
                                           SteadyTime steady_now) {
  if (deadline > wall_now + kFarAway) return std::nullopt;
  if (deadline <= wall_now) return steady_now;
  return steady_now + std::chrono::duration_cast<SteadyClock::duration>(deadline - wall_now);
}

absl::Status StatusOf(const gateway::SendResult& result, ShardId shard) {
  const std::string name = absl::StrCat("shard ", ToString(shard));
  switch (result.outcome) {
    case gateway::SendOutcome::kSent:
      return absl::OkStatus();
    case gateway::SendOutcome::kNoSuchShard:
      return NoSuchShard(shard);
    case gateway::SendOutcome::kNotRunning:
      return Error(
          StatusCode::kFailedPrecondition, reason::kShardNotRunning,
          absl::StrCat(name, " is stopped or has failed: Stats says why, Spawn starts it"));
    case gateway::SendOutcome::kNotReady:
      return Error(StatusCode::kUnavailable, reason::kShardNotReady,
                   absl::StrCat(name, " has not become ready: send again later"),
                   result.retry_after);
    case gateway::SendOutcome::kRateLimited:
      return Error(StatusCode::kResourceExhausted, reason::kSendRateLimited,
                   absl::StrCat("Discord's limits do not let it go through ", name,
                                " before the deadline: send it again later, or with a longer one"),
                   result.retry_after);
    case gateway::SendOutcome::kQueueFull:
      return Error(StatusCode::kResourceExhausted, reason::kSendQueueFull,
                   absl::StrCat("too many commands wait for ", name, " already: send more slowly"),
                   result.retry_after);
    case gateway::SendOutcome::kInterrupted:
      return Error(
          StatusCode::kUnavailable, reason::kSendInterrupted,
          absl::StrCat("the connection of ", name,
                       " ended while the command was written: it may have arrived, so send "
                       "it again only where twice does no harm"));
    case gateway::SendOutcome::kCancelled:
      return absl::CancelledError("the client has gone");
    case gateway::SendOutcome::kStopping:
      return Error(StatusCode::kUnavailable, reason::kServerStopping,
                   "the server stops: send again when it is back");
  }
  return absl::InternalError("unknown outcome of a Send");
}

}  // namespace shardd::server
