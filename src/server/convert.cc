#include "server/convert.h"

namespace shardd::server {

v1::ShardState ToProto(gateway::ShardState state) {
  switch (state) {
    case gateway::ShardState::kIdle:
      return v1::SHARD_STATE_IDLE;
    case gateway::ShardState::kWaitingToIdentify:
      return v1::SHARD_STATE_WAITING_TO_IDENTIFY;
    case gateway::ShardState::kConnecting:
      return v1::SHARD_STATE_CONNECTING;
    case gateway::ShardState::kIdentifying:
      return v1::SHARD_STATE_IDENTIFYING;
    case gateway::ShardState::kResuming:
      return v1::SHARD_STATE_RESUMING;
    case gateway::ShardState::kReady:
      return v1::SHARD_STATE_READY;
    case gateway::ShardState::kBackingOff:
      return v1::SHARD_STATE_BACKING_OFF;
    case gateway::ShardState::kCrashLoop:
      return v1::SHARD_STATE_CRASH_LOOP;
    case gateway::ShardState::kFailed:
      return v1::SHARD_STATE_FAILED;
    case gateway::ShardState::kStopped:
      return v1::SHARD_STATE_STOPPED;
  }
  return v1::SHARD_STATE_UNSPECIFIED;
}

std::string_view StateName(gateway::ShardState state) {
  constexpr std::string_view kPrefix = "SHARD_STATE_";
  std::string_view name = v1::ShardState_Name(ToProto(state));
  name.remove_prefix(kPrefix.size());
  return name;
}

google::protobuf::Duration ToProto(std::chrono::nanoseconds duration) {
  google::protobuf::Duration proto;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  proto.set_seconds(seconds.count());
  proto.set_nanos(static_cast<int32_t>((duration - seconds).count()));
  return proto;
}

google::protobuf::Timestamp ToProto(WallTime time) {
  google::protobuf::Timestamp proto;
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  proto.set_seconds(seconds.time_since_epoch().count());
  proto.set_nanos(static_cast<int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time - seconds).count()));
  return proto;
}

v1::ShardStatus ToProto(const gateway::ShardInfo& shard) {
  v1::ShardStatus proto;
  proto.set_shard_id(shard.shard.id);
  proto.set_shard_count(shard.shard.count);
  proto.set_state(ToProto(shard.state));
  proto.set_reason(shard.reason);
  proto.set_sequence(shard.sequence);
  proto.set_guilds(shard.guilds);
  proto.set_events(shard.events);
  if (shard.latency.has_value()) *proto.mutable_latency() = ToProto(*shard.latency);
  proto.set_restarts(shard.restarts);
  if (shard.last_restart.has_value()) *proto.mutable_last_restart() = ToProto(*shard.last_restart);
  proto.set_resumes(shard.resumes);
  proto.set_identifies(shard.identifies);
  if (shard.connected_since.has_value()) {
    *proto.mutable_connected_since() = ToProto(*shard.connected_since);
  }
  if (shard.last_event_at.has_value()) {
    *proto.mutable_last_event_at() = ToProto(*shard.last_event_at);
  }
  proto.set_silences(shard.silences);
  if (shard.last_silence.has_value()) *proto.mutable_last_silence() = ToProto(*shard.last_silence);
  if (shard.retry_at.has_value()) *proto.mutable_retry_at() = ToProto(*shard.retry_at);
  return proto;
}

}  // namespace shardd::server
