#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

#include "common/backoff.h"
#include "common/clock.h"
#include "gateway/gateway_bot.h"
#include "server/shard_board.h"
#include "server/shard_director.h"

namespace shardd::server {

struct GatewayWatchOptions {
  gateway::RestOptions rest;
  // Between two readings, give or take a tenth: --gateway-bot-interval.
  std::chrono::milliseconds interval{600'000};
  // No request follows another sooner, whoever asks for it.
  std::chrono::milliseconds least_pause{3'000};
  // After an answer that is none.
  BackoffOptions retry{.first = std::chrono::milliseconds(1'000),
                       .longest = std::chrono::milliseconds(300'000)};
  bool spawn = true;  // StartWanted() as soon as Discord has answered
};

// Reads GET /gateway/bot for the whole process, one request at a time: at the start until Discord
// answers, which lets the wanted shards start, then on a schedule and when the identify gate asks,
// so that the recommended shards and the session budget stay true. Shards run whatever it answers.
//
// Discord's 429 is waited out, be it for hours; what else fails is asked again ever more slowly.
// Runs on a thread of its own.
class GatewayWatch {
 public:
  // `on_fatal` is called with the process's exit code where asking again cannot help at the start:
  // 3, the token is rejected; 2, the flags do not fit what Discord says. `director` outlives the
  // watch; its pool's workers may ask for a reading until the pool has stopped.
  GatewayWatch(GatewayWatchOptions options, ShardDirector& director, ShardBoard& board,
               std::function<void(int exit_code)> on_fatal);
  // Asks no more; the destructor waits for a request that is under way, and resolving a name can
  // take its time.
  void BeginStop() { thread_.request_stop(); }
  ~GatewayWatch();

 private:
  // What the gate asks of this thread. Shared with the gate, which may ask while this ends.
  struct Demand {
    std::mutex mutex;
    std::condition_variable_any wake;
    bool is_open = false;
  };

  void Run(std::stop_token stop);
  // Until the next request is due; false: `stop` came first.
  bool WaitUntilDue(std::stop_token stop);
  void OnAnswer(const gateway::GatewayBot& bot);
  void OnFailure(const absl::Status& status);
  // True: there is nothing left to start.
  bool TrySpawn();
  std::chrono::milliseconds NextReading();

  const GatewayWatchOptions options_;
  ShardDirector& director_;
  ShardBoard& board_;
  const std::function<void(int)> on_fatal_;
  const std::shared_ptr<Demand> demand_ = std::make_shared<Demand>();
  Backoff retry_;
  Backoff spawn_retry_;
  std::mt19937_64 random_{std::random_device{}()};
  bool is_known_ = false;    // Discord has answered once
  bool is_spawned_ = false;  // or need not be
  bool is_over_ = false;
  SteadyTime due_;         // the next reading of the schedule
  SteadyTime not_before_;  // of a request, whoever asks
  std::jthread thread_;    // last: it uses all of the above
};

}  // namespace shardd::server
