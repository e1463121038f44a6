#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "simulator/gateway.h"
#include "simulator/simulator.h"
#include "simulator/traffic.h"

namespace shardd::simulator {

// What can be done to the simulated Discord, from code (Simulator) and over HTTP (HttpApi): its
// traffic and its faults. Simulator documents each. Loop-bound.
class Controls {
 public:
  explicit Controls(Gateway& gateway);

  size_t Emit(std::string_view type, uint64_t guild_id, std::string data);
  void EmitTraffic(size_t events);
  void EmitStructure(size_t changes);
  void SetRate(double events_per_second);
  void SetEqualPayloads(double share);
  // Gives and emits what is due since the last call.
  void Tick(SteadyTime now);

  size_t DropConnections(const Target& target);
  size_t SendReconnect(const Target& target);
  size_t SendInvalidSession(const Target& target, bool resumable);
  size_t CloseWith(const Target& target, uint16_t code, std::string_view reason);
  size_t StopAcks(const Target& target, bool stop);
  size_t RequestHeartbeat(const Target& target);
  size_t SendRaw(const Target& target, std::string_view payload);
  size_t SendBytes(const Target& target, MessageKind kind, std::string_view bytes);
  size_t SendFrameHeader(const Target& target, MessageKind kind, uint64_t size);
  size_t SendTcpBytes(const Target& target, std::string_view bytes);
  size_t SendBomb(const Target& target, size_t inflated_bytes);
  void SetDrip(size_t bytes, std::chrono::milliseconds pause);
  void SetSessionStarts(uint32_t remaining, std::optional<std::chrono::milliseconds> reset_after);
  size_t Freeze(const Target& target);
  size_t ForgetSessions(const Target& target);

 private:
  template <class Action>
  size_t ForPeers(const Target& target, Action action);

  Gateway& gateway_;
  std::optional<Traffic> traffic_;  // none without guilds
  double rate_;
  double owed_ = 0;
  SteadyTime last_tick_;
};

}  // namespace shardd::simulator
