#pragma once

#include <cstddef>

namespace shardd::gateway {

// The largest payload that Discord takes from a client; more is answered by close code 4002:
// https://discord.com/developers/docs/events/gateway#sending-events.
inline constexpr size_t kMaxPayloadBytes = 4096;

}  // namespace shardd::gateway
