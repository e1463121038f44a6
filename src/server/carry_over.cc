#include "server/carry_over.h"

#include <utility>
#include <vector>

#include "common/log.h"

namespace shardd::server {

using gateway::Command;
using gateway::CommandOp;
using gateway::SendOutcome;

CarryOver::CarryOver() : queue_(std::make_shared<Queue>()) {}

void CarryOver::Queue::Drop(const std::function<bool(ShardId, const Command&)>& is_superseded) {
  for (auto& [shard, commands] : waiting) {
    std::erase_if(commands,
                  [&, to = shard](const Command& each) { return is_superseded(to, each); });
  }
}

void CarryOver::OnAsked(ShardId shard, const Command& command) {
  const bool is_presence = command.op == CommandOp::kPresenceUpdate;
  if (!is_presence && command.voice_guild == 0) return;
  const std::lock_guard lock(queue_->mutex);
  queue_->Drop([&](ShardId to, const Command& each) {
    return each.op == command.op &&
           (is_presence ? to == shard : each.voice_guild == command.voice_guild);
  });
}

void CarryOver::OnSent(ShardId shard, const Command& command, uint32_t shard_count_in_charge) {
  const bool is_late = shard.count != shard_count_in_charge;
  const std::lock_guard lock(mutex_);
  if (!command.presence.empty() && !is_late) {
    presence_ = command.presence;
    presence_command_ = command;
  }
  const uint64_t guild = command.voice_guild;
  if (guild == 0) return;
  if (!command.joins_voice) {
    voice_.erase(guild);
  } else if (voice_.size() < kMostVoiceGuilds || voice_.contains(guild)) {
    voice_[guild] = command;
  } else if (!std::exchange(has_warned_, true)) {
    log::Warn("the bot is in more calls than a rescale can carry over",
              {{"carried_over", kMostVoiceGuilds}});
  }
  if (!is_late || shard_count_in_charge == 0) return;
  const ShardId to{.id = ShardForGuild(guild, shard_count_in_charge),
                   .count = shard_count_in_charge};
  const std::lock_guard queue_lock(queue_->mutex);
  queue_->Drop([&](ShardId, const Command& each) { return each.voice_guild == guild; });
  queue_->waiting[to].push_back(command);
}

std::string CarryOver::presence() const {
  const std::lock_guard lock(mutex_);
  return presence_;
}

uint32_t CarryOver::voice_guilds() const {
  const std::lock_guard lock(mutex_);
  return static_cast<uint32_t>(voice_.size());
}

void CarryOver::Begin(uint32_t shard_count, const std::string& presence) {
  const std::lock_guard lock(mutex_);
  const std::lock_guard queue_lock(queue_->mutex);
  queue_->waiting.clear();
  queue_->failed = 0;
  for (const auto& [guild, command] : voice_) {
    queue_->waiting[{.id = ShardForGuild(guild, shard_count), .count = shard_count}].push_back(
        command);
  }
  if (presence_ == presence) return;
  for (uint32_t id = 0; id < shard_count; ++id) {
    queue_->waiting[{.id = id, .count = shard_count}].push_front(presence_command_);
  }
}

bool CarryOver::Pump(const Send& send) {
  std::vector<std::pair<ShardId, Command>> due;
  bool is_empty = true;
  uint64_t failed = 0;
  {
    const std::lock_guard lock(queue_->mutex);
    for (auto& [shard, waiting] : queue_->waiting) {
      uint32_t& under_way = queue_->under_way[shard];
      for (; !waiting.empty() && under_way < kMostUnderWay; ++under_way) {
        due.emplace_back(shard, std::move(waiting.front()));
        waiting.pop_front();
      }
      if (under_way > 0 || !waiting.empty()) is_empty = false;
    }
    if (is_empty) {
      queue_->waiting.clear();
      queue_->under_way.clear();
      failed = std::exchange(queue_->failed, 0);
    }
  }
  if (failed > 0) {
    log::Warn("the new generation's sessions have not got all that the old one's had",
              {{"commands", failed}});
  }
  for (auto& [shard, command] : due) {
    const auto done = [queue = queue_, to = shard](const gateway::SendResult& result) {
      const std::lock_guard lock(queue->mutex);
      --queue->under_way[to];
      if (result.outcome != SendOutcome::kSent) ++queue->failed;
    };
    send(shard, std::move(command), done);
  }
  return is_empty;
}

}  // namespace shardd::server
