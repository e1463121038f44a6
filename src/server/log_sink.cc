#include "server/log_sink.h"

#include <string>

#include "common/clock.h"
#include "common/json_escape.h"
#include "server/convert.h"

namespace shardd::server {

LogSink::LogSink(events::Log& log, ShardBoard& board, std::function<void()> on_state_change)
    : log_(log), board_(board), on_state_change_(std::move(on_state_change)) {}

void LogSink::OnDispatch(const gateway::Dispatch& dispatch) {
  round_.Add({.shard = dispatch.shard,
              .session = dispatch.session,
              .sequence = dispatch.sequence,
              .guild_id = dispatch.guild_id,
              .received_unix_nanos = dispatch.received_unix_nanos,
              .type = dispatch.type,
              .data = dispatch.data});
  if (round_.bytes() > kMaxRoundBytes) log_.Append(round_);
}

void LogSink::OnStateChange(const gateway::ShardInfo& shard) {
  std::string data = "{\"shard_id\":" + std::to_string(shard.shard.id) +
                     ",\"shard_count\":" + std::to_string(shard.shard.count) + ",\"state\":\"" +
                     std::string(StateName(shard.state)) + "\",\"reason\":\"" +
                     JsonEscape(shard.reason) + "\",\"session\":" + std::to_string(shard.session) +
                     ",\"sequence\":" + std::to_string(shard.sequence) + "}";
  AddOwnEvent(shard.shard, shard.session, "SHARDD_SHARD_STATE", data);
  changed_.push_back(shard);
}

void LogSink::OnSessionLost(const gateway::LostSession& lost) {
  std::string data = "{\"shard_id\":" + std::to_string(lost.shard.id) +
                     ",\"shard_count\":" + std::to_string(lost.shard.count) +
                     ",\"session\":" + std::to_string(lost.session) +
                     ",\"last_sequence\":" + std::to_string(lost.last_sequence) +
                     ",\"last_event_unix_nanos\":" + std::to_string(lost.last_event_unix_nanos) +
                     ",\"reason\":\"" + JsonEscape(lost.reason) + "\"}";
  AddOwnEvent(lost.shard, lost.session, "SHARDD_SESSION_LOST", data);
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
  log_.Append(round_);
  if (changed_.empty()) return;
  const SteadyTime now = SteadyClock::now();
  for (const gateway::ShardInfo& shard : changed_) board_.Update(shard, now);
  changed_.clear();
  on_state_change_();
}

}  // namespace shardd::server
