#include "server/log_sink.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/json_escape.h"
#include "server/convert.h"

namespace shardd::server {

LogSink::LogSink(events::Log& log, Overlap& overlap, ShardBoard& board,
                 std::function<void()> on_state_change)
    : log_(log), overlap_(overlap), board_(board), on_state_change_(std::move(on_state_change)) {}

// What is said while both generations are there goes in order with what was said before.
bool LogSink::Overlaps() {
  if (!overlap_.is_active()) return false;
  if (!round_.empty()) log_.Append(round_);
  return true;
}

void LogSink::OnSessionOpened(const gateway::OpenedSession& opened) {
  opened_ = {.shard = opened.shard,
             .session = opened.session,
             .id = std::string(opened.id),
             .resume_url = std::string(opened.resume_url),
             .intents = opened.intents};
}

void LogSink::OnSessionEnded(ShardId shard, uint32_t session) {
  if (Overlaps() && overlap_.OnSessionEnded(shard, session)) return;
  round_.Add(events::SessionEnded{.shard = shard, .session = session});
}

void LogSink::OnDispatch(const gateway::Dispatch& dispatch) {
  const bool opens = dispatch.type == "READY";
  if (Overlaps() && (!opens || overlap_.OnSessionOpened(opened_)) &&
      overlap_.OnDispatch(dispatch)) {
    return;
  }
  if (round_.bytes() > kMaxRoundBytes) log_.Append(round_);
  // The session goes into the log with its READY.
  if (opens) round_.Add(opened_);
  round_.Add({.shard = dispatch.shard,
              .session = dispatch.session,
              .sequence = dispatch.sequence,
              .guild_id = dispatch.guild_id,
              .received_unix_nanos = dispatch.received_unix_nanos,
              .type = dispatch.type,
              .data = dispatch.data});
}

void LogSink::OnStateChange(const gateway::ShardInfo& shard) {
  changed_.push_back(shard);
  const std::string data =
      OwnData(shard.shard,
              absl::StrCat("\"state\":\"", std::string(StateName(shard.state)), "\",\"reason\":\"",
                           JsonEscape(shard.reason), "\",\"session\":", shard.session,
                           ",\"sequence\":", shard.sequence));
  if (Overlaps() && overlap_.OnStateChange(shard, data)) return;
  AddOwnEvent(shard.shard, shard.session, "SHARDD_SHARD_STATE", data);
}

void LogSink::OnSessionLost(const gateway::LostSession& lost) {
  const std::string data =
      OwnData(lost.shard,
              absl::StrCat("\"session\":", lost.session, ",\"last_sequence\":", lost.last_sequence,
                           ",\"last_event_unix_nanos\":", lost.last_event_unix_nanos,
                           ",\"reason\":\"", JsonEscape(lost.reason), "\""));
  if (Overlaps() && overlap_.OnSessionLost(lost, data)) return;
  AddOwnEvent(lost.shard, lost.session, "SHARDD_SESSION_LOST", data);
}

void LogSink::OnSkippedEvent(const gateway::SkippedEvent& skipped) {
  const std::string data =
      OwnData(skipped.shard,
              absl::StrCat("\"session\":", skipped.session, ",\"sequence\":", skipped.sequence,
                           ",\"type\":\"", JsonEscape(skipped.type), "\""));
  if (Overlaps() && overlap_.OnSkippedEvent(skipped, data)) return;
  AddOwnEvent(skipped.shard, skipped.session, "SHARDD_OVERSIZE", data);
  round_.Add(events::SequencePassed{
      .shard = skipped.shard, .session = skipped.session, .sequence = skipped.sequence});
}

void LogSink::OnCrashLoop(const gateway::CrashLoop& loop) {
  const std::string data =
      OwnData(loop.shard,
              absl::StrCat("\"deaths\":", loop.deaths, ",\"window_ms\":", loop.window.count(),
                           ",\"pause_ms\":", loop.pause.count(), ",\"restarts\":", loop.restarts,
                           ",\"reason\":\"", JsonEscape(loop.reason), "\""));
  if (Overlaps() && overlap_.OnOwnEvent(loop.shard, 0, "SHARDD_CRASH_LOOP", data)) return;
  AddOwnEvent(loop.shard, 0, "SHARDD_CRASH_LOOP", data);
}

void LogSink::OnSilence(const gateway::ShardSilence& silence) {
  const std::string data = OwnData(
      silence.shard,
      absl::StrCat("\"session\":", silence.session, ",\"silent_ms\":", silence.lasted.count(),
                   ",\"expected_events\":", static_cast<uint64_t>(silence.expected_events)));
  if (Overlaps() &&
      overlap_.OnOwnEvent(silence.shard, silence.session, "SHARDD_SHARD_SILENT", data)) {
    return;
  }
  AddOwnEvent(silence.shard, silence.session, "SHARDD_SHARD_SILENT", data);
}

void LogSink::OnHeartbeatAck(ShardId shard, SteadyTime sent) {
  if (Overlaps()) overlap_.OnHeartbeatAck(shard, sent);
}

std::string LogSink::OwnData(ShardId shard, std::string_view fields) {
  return absl::StrCat("{\"shard_id\":", shard.id, ",\"shard_count\":", shard.count, ",",
                      std::string(fields), "}");
}

void LogSink::AddOwnEvent(ShardId shard, uint32_t session, std::string_view type,
                          std::string_view data) {
  round_.Add({.shard = shard,
              .session = session,
              .received_unix_nanos = UnixNanos(std::chrono::system_clock::now()),
              .type = type,
              .data = data});
}

void LogSink::Flush() {
  if (Overlaps()) overlap_.Flush();
  log_.Append(round_);
  if (changed_.empty()) return;
  const SteadyTime now = SteadyClock::now();
  for (const gateway::ShardInfo& shard : changed_) board_.Update(shard, now);
  changed_.clear();
  on_state_change_();
}

}  // namespace shardd::server
