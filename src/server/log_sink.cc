#include "server/log_sink.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/json_escape.h"
#include "server/convert.h"

namespace shardd::server {

LogSink::LogSink(events::Log& log, ShardBoard& board, std::function<void()> on_state_change)
    : log_(log), board_(board), on_state_change_(std::move(on_state_change)) {}

void LogSink::AppendLargeRound() {
  if (round_.bytes() > kMaxRoundBytes) log_.Append(round_);
}

void LogSink::OnSessionOpened(const gateway::OpenedSession& opened) {
  AppendLargeRound();
  round_.Add(events::SessionOpened{.shard = opened.shard,
                                   .session = opened.session,
                                   .id = std::string(opened.id),
                                   .resume_url = std::string(opened.resume_url),
                                   .intents = opened.intents});
}

void LogSink::OnSessionEnded(ShardId shard, uint32_t session) {
  round_.Add(events::SessionEnded{.shard = shard, .session = session});
}

void LogSink::OnDispatch(const gateway::Dispatch& dispatch) {
  // The session that a READY opens goes into the log with it.
  if (dispatch.type != "READY") AppendLargeRound();
  round_.Add({.shard = dispatch.shard,
              .session = dispatch.session,
              .sequence = dispatch.sequence,
              .guild_id = dispatch.guild_id,
              .received_unix_nanos = dispatch.received_unix_nanos,
              .type = dispatch.type,
              .data = dispatch.data});
}

void LogSink::OnStateChange(const gateway::ShardInfo& shard) {
  AddOwnEvent(shard.shard, shard.session, "SHARDD_SHARD_STATE",
              absl::StrCat("\"state\":\"", std::string(StateName(shard.state)), "\",\"reason\":\"",
                           JsonEscape(shard.reason), "\",\"session\":", shard.session,
                           ",\"sequence\":", shard.sequence));
  changed_.push_back(shard);
}

void LogSink::OnSessionLost(const gateway::LostSession& lost) {
  AddOwnEvent(lost.shard, lost.session, "SHARDD_SESSION_LOST",
              absl::StrCat("\"session\":", lost.session, ",\"last_sequence\":", lost.last_sequence,
                           ",\"last_event_unix_nanos\":", lost.last_event_unix_nanos,
                           ",\"reason\":\"", JsonEscape(lost.reason), "\""));
}

void LogSink::OnSkippedEvent(const gateway::SkippedEvent& skipped) {
  AddOwnEvent(skipped.shard, skipped.session, "SHARDD_OVERSIZE",
              absl::StrCat("\"session\":", skipped.session, ",\"sequence\":", skipped.sequence,
                           ",\"type\":\"", JsonEscape(skipped.type), "\""));
  round_.Add(events::SequencePassed{
      .shard = skipped.shard, .session = skipped.session, .sequence = skipped.sequence});
}

void LogSink::OnCrashLoop(const gateway::CrashLoop& loop) {
  AddOwnEvent(loop.shard, 0, "SHARDD_CRASH_LOOP",
              absl::StrCat("\"deaths\":", loop.deaths, ",\"window_ms\":", loop.window.count(),
                           ",\"pause_ms\":", loop.pause.count(), ",\"restarts\":", loop.restarts,
                           ",\"reason\":\"", JsonEscape(loop.reason), "\""));
}

void LogSink::OnSilence(const gateway::ShardSilence& silence) {
  AddOwnEvent(
      silence.shard, silence.session, "SHARDD_SHARD_SILENT",
      absl::StrCat("\"session\":", silence.session, ",\"silent_ms\":", silence.lasted.count(),
                   ",\"expected_events\":", static_cast<uint64_t>(silence.expected_events)));
}

void LogSink::AddOwnEvent(ShardId shard, uint32_t session, std::string_view type,
                          std::string_view fields) {
  const std::string data = absl::StrCat(
      "{\"shard_id\":", shard.id, ",\"shard_count\":", shard.count, ",", std::string(fields), "}");
  round_.Add({.shard = shard,
              .session = session,
              .received_unix_nanos = UnixNanos(std::chrono::system_clock::now()),
              .type = type,
              .data = data});
}

void LogSink::Flush() {
  log_.Append(round_);
  if (changed_.empty()) return;
  const SteadyTime now = SteadyClock::now();
  for (const gateway::ShardInfo& shard : changed_) board_.Update(shard, now);
  changed_.clear();
  on_state_change_();
}

}  // namespace shardd::server
