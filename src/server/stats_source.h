#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "events/consumers.h"
#include "events/log.h"
#include "events/snapshots.h"
#include "server/fan_out.h"
#include "server/rescaler.h"
#include "server/retention_watch.h"
#include "server/shard_director.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// Puts StatsResponse together, for Stats and Watch. Thread-safe.
class StatsSource {
 public:
  StatsSource(std::string environment, uint64_t retain_bytes, const ShardDirector& director,
              const events::Log& log, const events::Snapshots* snapshots,
              const events::Consumers& consumers, const RetentionWatch& retention,
              const Rescaler& rescaler, const FanOut& fan_out);

  absl::StatusOr<v1::StatsResponse> Get(std::span<const uint32_t> shard_ids,
                                        uint32_t shard_count) const;

 private:
  void AddSubscribers(v1::StatsResponse& stats) const;

  const std::string environment_;
  const std::string instance_id_;
  const uint64_t retain_bytes_;
  const WallTime started_at_;
  const SteadyTime started_;
  const ShardDirector& director_;
  const events::Log& log_;
  const events::Snapshots* const snapshots_;  // nullptr: off
  const events::Consumers& consumers_;
  const RetentionWatch& retention_;
  const Rescaler& rescaler_;
  const FanOut& fan_out_;
};

}  // namespace shardd::server
