#include "server/stats_source.h"

#include <algorithm>
#include <map>
#include <random>

#include "absl/strings/str_format.h"
#include "server/consumer_request.h"
#include "server/convert.h"
#include "server/open_stream.h"
#include "server/reader_lag.h"
#include "server/shard_size.h"
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
                         const events::Snapshots* snapshots, const events::Consumers& consumers,
                         const RetentionWatch& retention, const Rescaler& rescaler,
                         const FanOut& fan_out)
    : environment_(std::move(environment)),
      instance_id_(RandomInstanceId()),
      retain_bytes_(retain_bytes),
      started_at_(std::chrono::system_clock::now()),
      started_(SteadyClock::now()),
      director_(director),
      log_(log),
      snapshots_(snapshots),
      consumers_(consumers),
      retention_(retention),
      rescaler_(rescaler),
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

  *stats.mutable_rescale() = rescaler_.status();
  const auto in_charge = director_.Describe({}, 0);
  for (const std::string& warning : SizeWarnings(director_.Facts(), *in_charge)) {
    stats.add_warnings(warning);
  }
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
  log_stats.set_events(log.events);
  log_stats.set_bytes(log.bytes);
  log_stats.set_retained_bytes(retain_bytes_);
  if (log.oldest_received_unix_nanos > 0) {
    const int64_t kept =
        UnixNanos(std::chrono::system_clock::now()) - log.oldest_received_unix_nanos;
    *log_stats.mutable_retained() = ToProto(std::chrono::nanoseconds(std::max<int64_t>(kept, 0)));
  }

  if (snapshots_ != nullptr) {
    const events::Snapshots::Stats snapshot = snapshots_->GetStats();
    v1::SnapshotStats& snapshot_stats = *stats.mutable_snapshot();
    snapshot_stats.set_guilds(snapshot.guilds);
    snapshot_stats.set_readys(snapshot.readys);
    snapshot_stats.set_guilds_left_out(snapshot.guilds_left_out);
    snapshot_stats.set_bytes(snapshot.bytes);
    snapshot_stats.set_disk_bytes(snapshot.disk_bytes);
    snapshot_stats.set_limit_bytes(snapshot.max_bytes);
  }

  if (const auto retention = retention_.RetentionAtPresentRate()) {
    *log_stats.mutable_retention_at_present_rate() = ToProto(*retention);
  }
  AddSubscribers(stats);
  return stats;
}

void StatsSource::AddSubscribers(v1::StatsResponse& stats) const {
  std::map<events::ConsumerKey, std::vector<int>> streams;  // of named consumers, by index
  for (const auto& waiter : fan_out_.waiters()) {
    const auto* stream = dynamic_cast<const OpenStream*>(waiter.get());
    v1::Subscriber subscriber;
    if (stream == nullptr || !stream->Describe(subscriber)) continue;
    if (!subscriber.consumer().empty()) {
      const auto consumer = ResolveConsumer(
          subscriber.consumer(),
          subscriber.filter().has_partition() ? &subscriber.filter().partition() : nullptr);
      if (consumer.ok()) streams[*consumer].push_back(stats.subscribers_size());
    }
    *stats.add_subscribers() = std::move(subscriber);
  }
  for (const auto& consumer : consumers_.List()) {
    // Of another log's cursor: the stream will start at the oldest event.
    const uint64_t position = consumer.kept.log == log_.id() ? consumer.kept.offset : log_.oldest();
    const ReaderLag lag = LagBehind(log_, position);
    std::vector<int>& open = streams[consumer.key];
    if (open.empty()) {
      open.push_back(stats.subscribers_size());
      v1::Subscriber& absent = *stats.add_subscribers();
      absent.set_consumer(consumer.key.name);
      if (consumer.key.partition.count > 1) {
        absent.mutable_filter()->mutable_partition()->set_index(consumer.key.partition.index);
        absent.mutable_filter()->mutable_partition()->set_count(consumer.key.partition.count);
      }
    }
    for (const int index : open) {
      stats.mutable_subscribers(index)->set_lag_events(lag.events);
      *stats.mutable_subscribers(index)->mutable_lag() = ToProto(lag.time);
    }
  }
}

}  // namespace shardd::server
