#pragma once

#include <cstdint>

namespace shardd::gateway {

// The opcodes that a bot meets:
// https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway. Others exist for
// other kinds of clients; one that the server sends is ignored.
enum class Opcode : int64_t {
  kDispatch = 0,
  kHeartbeat = 1,
  kIdentify = 2,
  kPresenceUpdate = 3,
  kResume = 6,
  kReconnect = 7,
  kInvalidSession = 9,
  kHello = 10,
  kHeartbeatAck = 11,
};

// Those that a bot may send once its session has begun, each for a purpose of the bot's own.
enum class CommandOp : uint32_t {
  kPresenceUpdate = 3,
  kVoiceStateUpdate = 4,
  kRequestGuildMembers = 8,
  kRequestSoundboardSounds = 31,
  kRequestChannelInfo = 43,
};

}  // namespace shardd::gateway
