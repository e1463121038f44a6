#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "events/log.h"
#include "events/round.h"
#include "gateway/event_sink.h"
#include "server/overlap.h"
#include "server/shard_board.h"

namespace shardd::server {

// Carries what one worker's shards say into the log: dispatches as they are, and what shardd itself
// has to say about a shard as SHARDD_ events (documented in the proto); and, for the next process,
// what becomes of their sessions. Owned by the worker, used on its thread alone.
class LogSink final : public gateway::EventSink {
 public:
  // `on_state_change` is called after the board knows of a change; must not block.
  // While a rescale runs, what shards say goes through `overlap`, which both generations share.
  LogSink(events::Log& log, Overlap& overlap, ShardBoard& board,
          std::function<void()> on_state_change);

  void OnSessionOpened(const gateway::OpenedSession& opened) override;
  void OnSessionEnded(ShardId shard, uint32_t session) override;
  void OnDispatch(const gateway::Dispatch& dispatch) override;
  void OnStateChange(const gateway::ShardInfo& shard) override;
  void OnSessionLost(const gateway::LostSession& lost) override;
  void OnSkippedEvent(const gateway::SkippedEvent& skipped) override;
  void OnCrashLoop(const gateway::CrashLoop& loop) override;
  void OnSilence(const gateway::ShardSilence& silence) override;
  void OnHeartbeatAck(ShardId shard, SteadyTime sent) override;
  void Flush() override;

 private:
  bool Overlaps();
  // `fields`: what follows shard_id and shard_count in the event's JSON.
  static std::string OwnData(ShardId shard, std::string_view fields);
  void AddOwnEvent(ShardId shard, uint32_t session, std::string_view type, std::string_view data);

  events::Log& log_;
  Overlap& overlap_;
  ShardBoard& board_;
  const std::function<void()> on_state_change_;
  events::Round round_;
  events::SessionOpened opened_;  // whose READY comes next
  // For the board, which hears of them when the pool shows them: the board calls watchers, who then
  // look at the pool.
  std::vector<gateway::ShardInfo> changed_;
};

}  // namespace shardd::server
