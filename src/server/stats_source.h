#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "events/log.h"
#include "server/fan_out.h"
#include "server/shard_director.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// Puts StatsResponse together, for Stats and Watch. Thread-safe.
class StatsSource {
 public:
  StatsSource(std::string environment, uint64_t retain_bytes, const ShardDirector& director,
              const events::Log& log, const FanOut& fan_out);

  absl::StatusOr<v1::StatsResponse> Get(std::span<const uint32_t> shard_ids,
                                        uint32_t shard_count) const;

 private:
  const std::string environment_;
  const std::string instance_id_;
  const uint64_t retain_bytes_;
  const WallTime started_at_;
  const SteadyTime started_;
  const ShardDirector& director_;
  const events::Log& log_;
  const FanOut& fan_out_;
};

}  // namespace shardd::server
