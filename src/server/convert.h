#pragma once

#include <string_view>

#include "common/clock.h"
#include "gateway/shard_info.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

v1::ShardState ToProto(gateway::ShardState state);
v1::ShardStatus ToProto(const gateway::ShardInfo& shard);
google::protobuf::Duration ToProto(std::chrono::nanoseconds duration);
google::protobuf::Timestamp ToProto(WallTime time);

// "READY": the contract's name of a state without its prefix, as in SHARDD_SHARD_STATE.
std::string_view StateName(gateway::ShardState state);

}  // namespace shardd::server
