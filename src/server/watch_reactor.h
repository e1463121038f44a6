#pragma once

#include <grpcpp/impl/codegen/server_callback.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "server/open_stream.h"
#include "server/shard_board.h"
#include "server/stats_source.h"

namespace shardd::server {

// One stream of Watch: Stats at once, then at the interval and when a shard changes state, at most
// 10 a second. A reader that does not keep up gets fewer messages, each of them fresh when it is
// written. Threads and owners as EventsReactor's.
class WatchReactor final : public grpc::ServerWriteReactor<v1::StatsResponse>,
                           public OpenStream,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  WatchReactor(grpc::CallbackServerContext& context, const StatsSource& stats,
               const ShardBoard& board, FanOut& fan_out, std::chrono::nanoseconds interval,
               std::vector<uint32_t> shard_ids, uint32_t shard_count,
               std::function<void()> on_done);

  void Start();

  SteadyTime OnWake(SteadyTime now) override;
  void BeginStop() override;
  bool Describe(v1::Subscriber&) const override { return false; }

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  static constexpr std::chrono::milliseconds kShortestInterval{100};
  static constexpr std::chrono::hours kLongestInterval{24};
  static constexpr std::chrono::seconds kDefaultInterval{10};

 private:
  SteadyTime PumpLocked(SteadyTime now);
  void FinishLocked(const absl::Status& status);

  grpc::CallbackServerContext& context_;
  const StatsSource& stats_;
  const ShardBoard& board_;
  FanOut& fan_out_;
  const std::chrono::nanoseconds interval_;
  const std::vector<uint32_t> shard_ids_;
  const uint32_t shard_count_;
  const std::function<void()> on_done_;
  std::shared_ptr<WatchReactor> self_;

  std::mutex mutex_;
  std::optional<SteadyTime> last_written_;
  uint64_t version_written_ = 0;
  bool write_in_flight_ = false;
  bool cancelled_ = false;  // a write in flight may still succeed, so OnWriteDone needs to know
  bool stopping_ = false;
  bool finished_ = false;
  v1::StatsResponse message_;
};

}  // namespace shardd::server
