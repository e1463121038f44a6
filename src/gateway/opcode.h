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
  kResume = 6,
  kReconnect = 7,
  kInvalidSession = 9,
  kHello = 10,
  kHeartbeatAck = 11,
};

}  // namespace shardd::gateway
