#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "gateway/send_command.h"
#include "server/shard_director.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// A request of Send that has been checked.
struct CheckedSend {
  ShardId shard;
  // The guild whose shard that is, in whatever generation is in charge; none: just this shard.
  std::optional<uint64_t> guild_id{};
  gateway::Command command;
};

// Failures carry the reasons that the proto names. Whether the shard exists is for the pool to say.
absl::StatusOr<CheckedSend> ResolveSendRequest(const v1::SendRequest& request,
                                               const ShardDirector& director);

// The caller's deadline on the clock that shards live by; none: the call has none. gRPC's own
// clock, which may be set while the call waits, counts as it is now.
std::optional<SteadyTime> ToSteadyDeadline(WallTime deadline, WallTime wall_now,
                                           SteadyTime steady_now);

// What became of it, as the contract says it; OK where it was sent.
absl::Status StatusOf(const gateway::SendResult& result, ShardId shard);

}  // namespace shardd::server
