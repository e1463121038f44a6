#include "gateway/shard_pool.h"

namespace shardd::gateway {

class ShardPool::Core {};

ShardPool::ShardPool(ShardPoolOptions, SinkFactory) : core_(std::make_unique<Core>()) {}
ShardPool::~ShardPool() = default;
void ShardPool::SetGatewayBot(const GatewayBot&) {}
absl::Status ShardPool::Spawn(std::span<const uint32_t>, uint32_t) {
  return absl::UnavailableError("not built yet");
}
void ShardPool::Kill(std::span<const uint32_t>, uint32_t, bool) {}
std::vector<ShardInfo> ShardPool::Snapshot() const { return {}; }
uint32_t ShardPool::session_starts_remaining() const { return 0; }
void ShardPool::Stop(std::chrono::milliseconds) {}

}  // namespace shardd::gateway
