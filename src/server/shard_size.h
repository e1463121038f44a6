#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "gateway/shard_info.h"
#include "server/fan_out.h"
#include "server/rescale_plan.h"
#include "server/shard_director.h"

namespace shardd::server {

// What should be seen to since shards of the generation in charge have too many guilds: those that
// have more than Discord lets one have, and those that it has refused for that (4011). In words,
// with the Rescale that mends it.
std::vector<std::string> SizeWarnings(const RescaleFacts& facts,
                                      std::span<const gateway::ShardInfo> shards);

// Says them in the server's log, each kind once a generation.
class ShardSizeWatch final : public Waiter {
 public:
  explicit ShardSizeWatch(const ShardDirector& director) : director_(director) {}

  SteadyTime OnWake(SteadyTime now) override;

  static constexpr std::chrono::seconds kInterval{10};

 private:
  const ShardDirector& director_;
  SteadyTime next_look_ = SteadyTime::min();
  uint64_t generation_ = 0;
  size_t said_ = 0;  // of this generation
};

}  // namespace shardd::server
