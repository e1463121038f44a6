#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "common/shard_id.h"
#include "gateway/send_command.h"

namespace shardd::server {

// What callers of Send have given the sessions of a generation, and what is lost with these unless
// the sessions of the next one are given it as well: the presence, and the calls that the bot has
// joined. Knows only what has gone through Send since the process started. Thread-safe.
class CarryOver {
 public:
  // As ShardPool::Send without a deadline.
  using Send = std::function<void(ShardId, gateway::Command, gateway::SendReply::Done)>;

  CarryOver();

  // A caller has asked for this. What this would have sent for the same guild, or the same shard's
  // presence, is older, and is not sent any more.
  void OnAsked(ShardId shard, const gateway::Command& command);
  // It was sent. Through a shard that is no longer in charge: it had waited, and the new one is
  // still to get it.
  void OnSent(ShardId shard, const gateway::Command& command, uint32_t shard_count_in_charge);

  // The newest presence that was sent (`d` of an op 3); empty: none.
  std::string presence() const;
  // Guilds whose call the bot has joined, and has not left.
  uint32_t voice_guilds() const;

  // The generation of that count has taken over, and its sessions began with `presence`: queues
  // what they need beside it.
  void Begin(uint32_t shard_count, const std::string& presence);
  // Sends what is due. True: all of it has gone, or failed and was logged.
  bool Pump(const Send& send);

  // More calls than these are not carried over; one guild's command has at most
  // gateway::kMaxPayloadBytes.
  static constexpr size_t kMostVoiceGuilds = 10'000;
  // Commands that a shard is given at a time, so that callers' own find room in its queue.
  static constexpr uint32_t kMostUnderWay = 32;

 private:
  // Shared with commands under way, which may outlive this.
  struct Queue {
    std::mutex mutex;
    std::map<ShardId, std::deque<gateway::Command>> waiting;
    std::map<ShardId, uint32_t> under_way;
    uint64_t failed = 0;

    void Drop(const std::function<bool(ShardId, const gateway::Command&)>& is_superseded);
  };

  mutable std::mutex mutex_;
  std::string presence_;
  gateway::Command presence_command_;
  std::map<uint64_t, gateway::Command> voice_;  // by guild
  bool has_warned_ = false;
  const std::shared_ptr<Queue> queue_;
};

}  // namespace shardd::server
