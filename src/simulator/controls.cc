#include "simulator/controls.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "simulator/peer.h"

namespace shardd::simulator {
namespace {

constexpr std::chrono::milliseconds kLongestTurn{20};
constexpr size_t kEventsBetweenLooks = 64;

}  // namespace

Controls::Controls(Gateway& gateway)
    : gateway_(gateway), rate_(gateway.options.rate), last_tick_(SteadyClock::now()) {
  if (!gateway.guilds().ids().empty()) traffic_.emplace(gateway.guilds(), gateway.options.seed);
  SetEqualPayloads(gateway.options.equal_payloads);
}

size_t Controls::Emit(std::string_view type, uint64_t guild_id, std::string data) {
  const auto event =
      std::make_shared<const Dispatch>(Dispatch{std::string(type), guild_id, std::move(data)});
  const size_t given = gateway_.Publish(event);
  gateway_.Changed();
  return given;
}

void Controls::EmitTraffic(size_t events) {
  if (!traffic_.has_value()) return;
  for (size_t i = 0; i < events; ++i) {
    const DispatchPtr event = traffic_->Next();
    const auto guild = gateway_.guilds().Find(event->guild_id);
    if (guild.has_value() && gateway_.structure().IsAvailable(*guild)) gateway_.Publish(event);
  }
  gateway_.Changed();
}

void Controls::EmitStructure(size_t changes) {
  if (!traffic_.has_value()) return;
  for (size_t i = 0; i < changes; ++i) gateway_.PublishChange();
  gateway_.Changed();
}

void Controls::SetRate(double events_per_second) {
  rate_ = std::max(0.0, events_per_second);
  owed_ = 0;
}

void Controls::SetEqualPayloads(double share) {
  if (traffic_.has_value()) traffic_->SetEqualPayloads(share);
}

void Controls::Tick(SteadyTime now) {
  gateway_.GiveHeld(now);
  const std::chrono::duration<double> passed = now - last_tick_;
  last_tick_ = now;
  // Without a session nobody could tell, and the sequence stays where it is.
  if (rate_ <= 0 || !gateway_.HasSessions()) return;
  // A thread that falls behind makes up for a quarter of a second at most, or it would never come
  // to reading again.
  owed_ = std::min(owed_ + passed.count() * rate_, rate_ / 4);
  const auto due = static_cast<size_t>(owed_);
  owed_ -= static_cast<double>(due);
  if (due > 0) EmitTraffic(due);
}

template <class Action>
size_t Controls::ForPeers(const Target& target, Action action) {
  const auto peers = gateway_.SelectPeers(target);
  for (Peer* peer : peers) action(*peer);
  gateway_.Changed();
  return peers.size();
}

size_t Controls::DropConnections(const Target& target) {
  return ForPeers(target, [](Peer& peer) { peer.Reset(); });
}

size_t Controls::SendReconnect(const Target& target) {
  return ForPeers(target, [](Peer& peer) { peer.SendOp(Op::kReconnect, "null"); });
}

size_t Controls::SendInvalidSession(const Target& target, bool resumable) {
  const size_t touched = ForPeers(target, [resumable](Peer& peer) {
    peer.SendOp(Op::kInvalidSession, resumable ? "true" : "false");
  });
  for (Session* session : gateway_.Select(target)) {
    if (resumable) {
      gateway_.Detach(*session);
    } else {
      gateway_.End(*session);
    }
  }
  return touched;
}

size_t Controls::CloseWith(const Target& target, uint16_t code, std::string_view reason) {
  return ForPeers(target, [code, reason](Peer& peer) { peer.Close(code, reason); });
}

size_t Controls::StopAcks(const Target& target, bool stop) {
  const auto sessions = gateway_.Select(target);
  for (Session* session : sessions) session->acks_stopped = stop;
  return sessions.size();
}

size_t Controls::RequestHeartbeat(const Target& target) {
  return ForPeers(target, [](Peer& peer) { peer.SendOp(Op::kHeartbeat, "null"); });
}

size_t Controls::SendRaw(const Target& target, std::string_view payload) {
  return ForPeers(target, [payload](Peer& peer) { peer.SendPayload(payload); });
}

size_t Controls::SendBytes(const Target& target, MessageKind kind, std::string_view bytes) {
  return ForPeers(target, [kind, bytes](Peer& peer) { peer.SendMessage(kind, bytes); });
}

size_t Controls::SendFrameHeader(const Target& target, MessageKind kind, uint64_t size) {
  return ForPeers(target, [kind, size](Peer& peer) { peer.SendFrameHeader(kind, size); });
}

size_t Controls::SendTcpBytes(const Target& target, std::string_view bytes) {
  return ForPeers(target, [bytes](Peer& peer) { peer.SendTcpBytes(bytes); });
}

size_t Controls::SendBomb(const Target& target, size_t inflated_bytes) {
  size_t sent = 0;
  ForPeers(target, [&](Peer& peer) { sent += peer.SendBomb(inflated_bytes) ? 1 : 0; });
  return sent;
}

void Controls::SetDrip(size_t bytes, std::chrono::milliseconds pause) {
  gateway_.options.drip_bytes = bytes;
  gateway_.options.drip_pause = pause;
  ForPeers(Target(), [&](Peer& peer) { peer.SetDrip(bytes, pause); });
}

void Controls::SetSessionStarts(uint32_t remaining,
                                std::optional<std::chrono::milliseconds> reset_after) {
  std::optional<SteadyTime> day_ends;
  if (reset_after.has_value()) day_ends = SteadyClock::now() + *reset_after;
  gateway_.limits().Set(remaining, day_ends);
}

size_t Controls::Freeze(const Target& target) {
  return ForPeers(target, [](Peer& peer) { peer.Freeze(); });
}

size_t Controls::ForgetSessions(const Target& target) {
  const auto sessions = gateway_.Select(target);
  for (Session* session : sessions) gateway_.End(*session);
  return sessions.size();
}

}  // namespace shardd::simulator
