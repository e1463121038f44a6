#include "server/gateway_watch.h"

#include <algorithm>

#include "common/log.h"
#include "common/status.h"
#include "server/exit_code.h"

namespace shardd::server {

using std::chrono::milliseconds;

namespace {

constexpr std::string_view kNoShardsYet = "not all shards run yet; trying again";

}  // namespace

GatewayWatch::GatewayWatch(GatewayWatchOptions options, ShardDirector& director, ShardBoard& board,
                           std::function<void(int exit_code)> on_fatal)
    : options_(std::move(options)),
      director_(director),
      board_(board),
      on_fatal_(std::move(on_fatal)),
      retry_(options_.retry),
      spawn_retry_(options_.retry),
      is_spawned_(!options_.spawn),
      thread_([this](std::stop_token stop) { Run(stop); }) {}

GatewayWatch::~GatewayWatch() {
  director_.SetRefresh({});
  // Nobody answers any more: who waits goes on.
  thread_.request_stop();
  thread_.join();
  director_.KeepGatewayBot();
}

void GatewayWatch::Run(std::stop_token stop) {
  director_.SetRefresh([demand = demand_] {
    const std::lock_guard lock(demand->mutex);
    demand->is_open = true;
    demand->wake.notify_all();
  });
  while (!is_over_ && WaitUntilDue(stop)) {
    const auto bot = gateway::FetchGatewayBot(options_.rest, stop);
    if (stop.stop_requested()) return;
    not_before_ = SteadyClock::now() + options_.least_pause;
    if (bot.ok()) {
      OnAnswer(*bot);
    } else {
      OnFailure(bot.status());
    }
  }
}

bool GatewayWatch::WaitUntilDue(std::stop_token stop) {
  for (;;) {
    bool is_asked = false;
    {
      std::unique_lock lock(demand_->mutex);
      demand_->wake.wait_until(lock, stop, std::max(due_, not_before_),
                               [this] { return demand_->is_open; });
      is_asked = std::exchange(demand_->is_open, false);
    }
    if (stop.stop_requested()) return false;
    const SteadyTime now = SteadyClock::now();
    if (now >= not_before_ && (is_asked || now >= due_)) return true;
    // Discord must not be asked now, so what is known has to do.
    if (is_asked) director_.KeepGatewayBot();
  }
}

milliseconds GatewayWatch::NextReading() {
  const int64_t tenth = options_.interval.count() / 10;
  std::uniform_int_distribution<int64_t> jitter(-tenth, tenth);
  return options_.interval + milliseconds(jitter(random_));
}

void GatewayWatch::OnAnswer(const gateway::GatewayBot& bot) {
  retry_.Reset();
  due_ = SteadyClock::now() + NextReading();
  director_.SetGatewayBot(bot);
  const std::initializer_list<log::Field> fields = {
      {"recommended_shards", bot.recommended_shards},
      {"session_starts_remaining", bot.session_starts_remaining},
      {"session_starts_total", bot.session_starts_total},
      {"max_concurrency", bot.max_concurrency}};
  log::Write(is_known_ ? log::Level::kDebug : log::Level::kInfo, "Discord has told the gateway",
             fields);
  is_known_ = true;
  if (!is_spawned_) is_spawned_ = TrySpawn();
  if (is_spawned_) board_.SetStarting(false);
}

bool GatewayWatch::TrySpawn() {
  const auto shards = director_.StartWanted();
  if (shards.ok()) {
    if (shards->empty()) return true;  // somebody has stopped them meanwhile
    log::Info("starting shards",
              {{"shards", shards->size()}, {"shard_count", director_.overview().shard_count}});
    return true;
  }
  if (absl::IsInvalidArgument(shards.status())) {
    log::Error("the flags do not fit what Discord says", {{"error", Message(shards.status())}});
    is_over_ = true;
    on_fatal_(kExitBadConfiguration);
    return false;
  }
  const milliseconds pause = spawn_retry_.Next();
  due_ = std::min(due_, SteadyClock::now() + pause);
  log::Warn(kNoShardsYet, {{"error", Message(shards.status())}, {"in_ms", pause.count()}});
  return false;
}

void GatewayWatch::OnFailure(const absl::Status& status) {
  // Who waits for it goes on with what is known.
  director_.KeepGatewayBot();
  const SteadyTime now = SteadyClock::now();
  if (absl::IsUnauthenticated(status)) {
    if (!is_known_) {
      log::Error(
          "Discord rejects the token (401): copy the bot's token from the Developer Portal into "
          "DISCORD_TOKEN or --token-file; resetting it there makes older ones invalid");
      is_over_ = true;
      on_fatal_(kExitTokenRejected);
      return;
    }
    // Each 401 counts towards a ban of the IP address (10,000 in 10 minutes), and no more of them
    // make the token valid: https://discord.com/developers/docs/topics/rate-limits.
    not_before_ = due_ = now + NextReading();
    log::Error(
        "Discord rejects the token now (401): running shards stay; restart shardd with the bot's "
        "present token",
        {{"asked_again_in_ms", std::chrono::ceil<milliseconds>(due_ - now).count()}});
    return;
  }
  milliseconds pause = retry_.Next();
  if (const auto retry_after = gateway::RetryAfter(status)) {
    // Many hosts may have been told the same.
    pause = *retry_after + milliseconds(random_() % 1000);
    not_before_ = std::max(not_before_, now + pause);
  } else {
    not_before_ = std::max(not_before_, now + std::min(pause, options_.least_pause));
  }
  due_ = now + pause;
  log::Warn(is_known_ || is_spawned_ ? "the gateway cannot be read; shards go on with what is known"
                                     : kNoShardsYet,
            {{"error", Message(status)}, {"in_ms", pause.count()}});
}

}  // namespace shardd::server
