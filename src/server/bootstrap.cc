#include "server/bootstrap.h"

#include <condition_variable>
#include <mutex>

#include "common/backoff.h"
#include "common/log.h"
#include "common/status.h"
#include "server/exit_code.h"

namespace shardd::server {
namespace {

// False when `stop` came first.
bool SleepFor(std::chrono::milliseconds time, std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

}  // namespace

Bootstrap::Bootstrap(gateway::RestOptions rest, bool spawn, ShardDirector& director,
                     ShardBoard& board, std::function<void(int exit_code)> on_fatal)
    : rest_(std::move(rest)),
      spawn_(spawn),
      director_(director),
      board_(board),
      on_fatal_(std::move(on_fatal)),
      thread_([this](std::stop_token stop) { Run(stop); }) {}

Bootstrap::~Bootstrap() = default;

void Bootstrap::Run(std::stop_token stop) {
  Backoff backoff({.first = std::chrono::seconds(1), .longest = std::chrono::minutes(5)});
  do {
    const auto bot = gateway::FetchGatewayBot(rest_, stop);
    absl::Status status = bot.status();
    if (bot.ok()) {
      director_.SetGatewayBot(*bot);
      log::Info("Discord has told the gateway",
                {{"recommended_shards", bot->recommended_shards},
                 {"session_starts_remaining", bot->session_starts_remaining},
                 {"session_starts_total", bot->session_starts_total},
                 {"max_concurrency", bot->max_concurrency}});
      if (!spawn_) {
        board_.SetStarting(false);
        return;
      }
      const auto shards = director_.Spawn({}, 0);
      if (shards.ok()) {
        board_.SetStarting(false);
        log::Info("starting shards",
                  {{"shards", shards->size()}, {"shard_count", director_.overview().shard_count}});
        return;
      }
      if (absl::IsInvalidArgument(shards.status())) {
        log::Error("the flags do not fit what Discord says", {{"error", Message(shards.status())}});
        on_fatal_(kExitBadConfiguration);
        return;
      }
      status = shards.status();
    } else if (absl::IsUnauthenticated(status)) {
      log::Error(
          "Discord rejects the token (401): copy the bot's token from the Developer Portal into "
          "DISCORD_TOKEN or --token-file; resetting it there makes older ones invalid");
      on_fatal_(kExitTokenRejected);
      return;
    }
    if (stop.stop_requested()) return;
    const auto pause = backoff.Next();
    log::Warn("no shards yet; trying again",
              {{"error", Message(status)}, {"in_ms", pause.count()}});
    if (!SleepFor(pause, stop)) return;
  } while (!stop.stop_requested());
}

}  // namespace shardd::server
