#include "server/retention_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "server/events_reactor.h"
#include "server/reader_lag.h"

namespace shardd::server {
namespace {

std::string NameOf(const events::ConsumerKey& key) {
  if (key.partition.count == 1) return key.name;
  return absl::StrCat(key.name, " ", key.partition.index, "/", key.partition.count);
}

}  // namespace

RetentionWatch::RetentionWatch(const events::Log& log, events::Consumers& consumers,
                               const FanOut& fan_out)
    : log_(log), consumers_(consumers), fan_out_(fan_out) {}

SteadyTime RetentionWatch::OnWake(SteadyTime now) {
  if (now < next_look_) return next_look_;
  next_look_ = now + kInterval;
  Measure(now);
  ++looks_;
  for (const auto& waiter : fan_out_.waiters()) {
    const auto* stream = dynamic_cast<const EventsReactor*>(waiter.get());
    if (stream == nullptr || stream->consumer().has_value()) continue;
    Check(absl::StrCat("stream ", absl::Hex(reinterpret_cast<uintptr_t>(stream))), "",
          stream->peer(), stream->position());
  }
  consumers_.KeepConnected();
  for (const auto& consumer : consumers_.List()) {
    // A cursor of another log loses nothing of this one.
    if (consumer.kept.log != log_.id()) continue;
    const std::string name = NameOf(consumer.key);
    Check("consumer " + name, name, "", consumer.kept.offset);
  }
  std::erase_if(readers_, [this](const auto& reader) { return reader.second.look != looks_; });
  return next_look_;
}

void RetentionWatch::Measure(SteadyTime now) {
  const std::lock_guard lock(mutex_);
  samples_.push_back({.at = now, .appended_bytes = log_.appended_bytes()});
  while (samples_.size() > 2 && now - samples_.front().at > kWindow) samples_.pop_front();
}

double RetentionWatch::BytesPerSecond() const {
  const std::lock_guard lock(mutex_);
  if (samples_.size() < 2) return 0;
  const std::chrono::duration<double> time = samples_.back().at - samples_.front().at;
  if (time.count() <= 0) return 0;
  return static_cast<double>(samples_.back().appended_bytes - samples_.front().appended_bytes) /
         time.count();
}

std::optional<std::chrono::nanoseconds> RetentionWatch::RetentionAtPresentRate() const {
  const double rate = BytesPerSecond();
  if (rate <= 0) return std::nullopt;
  const double seconds = static_cast<double>(log_.RoomBehind(log_.end())) / rate;
  // What nanoseconds can hold, and far beyond what anybody asks.
  constexpr double kMost = 100.0 * 365 * 24 * 3600;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(std::min(seconds, kMost)));
}

void RetentionWatch::Check(const std::string& key, const std::string& consumer,
                           const std::string& peer, uint64_t position) {
  const auto [found, is_new] = readers_.try_emplace(key);
  Reader& reader = found->second;
  reader.look = looks_;
  const uint64_t room = log_.RoomBehind(position);
  const uint64_t before = std::exchange(reader.room, room);
  const uint64_t end = log_.end();
  if (position < log_.oldest() && position < end) {
    // A stream says it when it meets the gap.
    if (!reader.lost && !consumer.empty()) {
      log::Warn(
          "a named consumer's kept cursor has left the log: its next stream starts with a "
          "gap, unless it is acknowledged further before",
          {{"consumer", consumer}, {"oldest_event", log_.oldest()}, {"kept", position}});
    }
    reader.lost = true;
    reader.warned = true;
    return;
  }
  reader.lost = false;
  const uint64_t all = log_.RoomBehind(end);
  const double rate = BytesPerSecond();
  const bool near = position < end &&
                    (room <= all / kNearShare ||
                     (room <= all / 2 &&
                      static_cast<double>(room) <= rate * static_cast<double>(kNearTime.count())));
  if (!near) {
    // Not at the very border, where it would be warned about again and again.
    if (room > all / 4) reader.warned = false;
    return;
  }
  // One that is behind and catches up loses nothing.
  if (reader.warned || is_new || room > before) return;
  reader.warned = true;
  const ReaderLag lag = LagBehind(log_, position);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(lag.time).count();
  if (consumer.empty()) {
    log::Warn(
        "a stream of Events is close to the end of what the log keeps, and will lose events: "
        "let it read faster or filter more, or raise --retain-bytes",
        {{"peer", peer}, {"lag_events", lag.events}, {"lag_seconds", seconds}});
  } else {
    log::Warn(
        "a named consumer is close to the end of what the log keeps, and will lose events: "
        "let it read and acknowledge, or raise --retain-bytes",
        {{"consumer", consumer}, {"lag_events", lag.events}, {"lag_seconds", seconds}});
  }
}

}  // namespace shardd::server
