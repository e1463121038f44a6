#include "simulator/session.h"

#include <functional>
#include <utility>

#include "simulator/protocol.h"

namespace shardd::simulator {

uint64_t DigestOf(std::string_view type, std::string_view data) {
  const std::hash<std::string_view> hash;
  return hash(data) * 31 + hash(type);
}

void Session::Append(DispatchPtr dispatch) {
  if (options_.record) recorded_.push_back(dispatch);
  if (options_.record_digests) {
    digests_.push_back({dispatch->guild_id, DigestOf(dispatch->type, dispatch->data)});
  }
  replay_.push_back(std::move(dispatch));
  if (replay_.size() > options_.replay_events) replay_.pop_front();
  ++next_;
}

DispatchPtr Session::Find(uint64_t sequence) const {
  if (sequence >= next_ || sequence + replay_.size() < next_) return nullptr;
  return replay_[sequence + replay_.size() - next_];
}

void Session::NoteCommand(int64_t op, std::string_view data) {
  constexpr size_t kMostCommands = 1000;
  commands_.push_back({op, std::string(data)});
  if (commands_.size() > kMostCommands) commands_.pop_front();
}

std::vector<SentDispatch> Session::Sent() const {
  std::vector<SentDispatch> sent;
  sent.reserve(recorded_.size());
  uint64_t sequence = options_.first_sequence;
  for (const DispatchPtr& dispatch : recorded_) {
    sent.push_back({sequence++, dispatch->type, dispatch->guild_id, dispatch->data});
  }
  return sent;
}

SessionInfo Session::Info() const {
  SessionInfo info;
  info.session_id = options_.id;
  info.shard = options_.shard;
  info.intents = options_.intents;
  info.connected = peer != nullptr;
  info.guilds_sent = guilds_sent == guilds.size() || !Wants(intent::kGuilds);
  info.guilds = static_cast<uint32_t>(guilds.size());
  info.sequence = sequence();
  info.resumes = resumes;
  info.heartbeats = heartbeats;
  info.heartbeat_sequence = heartbeat_sequence;
  info.compression = compression;
  info.presence = presence;
  return info;
}

}  // namespace shardd::simulator
