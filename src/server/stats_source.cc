#include "server/stats_source.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_format.h"
#include "server/convert.h"
#include "server/open_stream.h"
#include "server/version.h"

namespace shardd::server {
namespace {

std::string RandomInstanceId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

}  // namespace

StatsSource::StatsSource(std::string environment, uint64_t retain_bytes,
                         const ShardDirector& director, const events::Log& log,
                         const FanOut& fan_out)
    : environment_(std::move(environment)),
      instance_id_(RandomInstanceId()),
      retain_bytes_(retain_bytes),
      started_at_(std::chrono::system_clock::now()),
      started_(SteadyClock::now()),
      director_(director),
      log_(log),
      fan_out_(fan_out) {}

absl::StatusOr<v1::StatsResponse> StatsSource::Get(std::span<const uint32_t> shard_ids,
                                                   uint32_t shard_count) const {
  auto shards = director_.Describe(shard_ids, shard_count);
  if (!shards.ok()) return shards.status();

  v1::StatsResponse stats;
  for (const auto& shard : *shards) *stats.add_shards() = ToProto(shard);

  v1::ServerInfo& server = *stats.mutable_server();
  server.set_version(kVersion);
  server.set_instance_id(instance_id_);
  server.set_environment(environment_);
  *server.mutable_started_at() = ToProto(started_at_);
  *server.mutable_master_uptime() = ToProto(SteadyClock::now() - started_);

  const ShardDirector::Overview overview = director_.overview();
  stats.set_shard_count(overview.shard_count);
  stats.set_generation(overview.generation);
  if (overview.gateway_bot.has_value()) {
    stats.set_recommended_shards(overview.gateway_bot->recommended_shards);
  }
  if (const gateway::SessionBudget& known = overview.session_budget; known.known) {
    v1::SessionBudget& budget = *stats.mutable_session_budget();
    budget.set_total(known.total);
    budget.set_remaining(known.remaining);
    budget.set_reserve(known.reserve);
    if (known.renews_at.has_value()) {
      *budget.mutable_resets_at() =
          ToProto(std::chrono::system_clock::now() + (*known.renews_at - SteadyClock::now()));
    }
    budget.set_max_concurrency(known.max_concurrency);
  }

  const events::Log::Stats log = log_.GetStats();
  v1::LogStats& log_stats = *stats.mutable_log();
  log_stats.set_oldest_cursor(events::FormatCursor(log_.CursorAt(log.oldest)));
  log_stats.set_newest_cursor(events::FormatCursor(log_.CursorAt(log.end)));
  log_stats.set_events(log.end - log.oldest);
  log_stats.set_bytes(log.bytes);
  log_stats.set_retained_bytes(retain_bytes_);
  if (log.oldest_received_unix_nanos > 0) {
    const int64_t kept =
        UnixNanos(std::chrono::system_clock::now()) - log.oldest_received_unix_nanos;
    *log_stats.mutable_retained() = ToProto(std::chrono::nanoseconds(std::max<int64_t>(kept, 0)));
  }

  for (const auto& waiter : fan_out_.waiters()) {
    const auto* stream = dynamic_cast<const OpenStream*>(waiter.get());
    v1::Subscriber subscriber;
    if (stream != nullptr && stream->Describe(subscriber)) {
      *stats.add_subscribers() = std::move(subscriber);
    }
  }
  return stats;
}

}  // namespace shardd::server
