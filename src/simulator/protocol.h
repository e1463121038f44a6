#pragma once

#include <cstdint>
#include <string_view>

// Discord's constants as the simulator understands them. Written apart from those of the gateway
// client on purpose: a wrong one must show up as a disagreement.
namespace shardd::simulator {

// The simulated bot, as a user and as an application.
inline constexpr uint64_t kBotUserId = 872'145'673'928'011'796;

// https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-opcodes
enum class Op : int64_t {
  kDispatch = 0,
  kHeartbeat = 1,
  kIdentify = 2,
  kPresenceUpdate = 3,
  kVoiceStateUpdate = 4,
  kResume = 6,
  kReconnect = 7,
  kRequestGuildMembers = 8,
  kInvalidSession = 9,
  kHello = 10,
  kHeartbeatAck = 11,
  kRequestSoundboardSounds = 31,
  kRequestChannelInfo = 43,
};

// https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
namespace close_code {
inline constexpr uint16_t kNormal = 1000;
inline constexpr uint16_t kGoingAway = 1001;
inline constexpr uint16_t kProtocolError = 1002;
inline constexpr uint16_t kNone = 1005;      // never on the wire: a close frame without a code
inline constexpr uint16_t kAbnormal = 1006;  // never on the wire: no close frame
inline constexpr uint16_t kUnknownOpcode = 4001;
inline constexpr uint16_t kDecodeError = 4002;
inline constexpr uint16_t kNotAuthenticated = 4003;
inline constexpr uint16_t kAuthenticationFailed = 4004;
inline constexpr uint16_t kAlreadyAuthenticated = 4005;
inline constexpr uint16_t kInvalidSequence = 4007;
inline constexpr uint16_t kRateLimited = 4008;
inline constexpr uint16_t kSessionTimedOut = 4009;
inline constexpr uint16_t kInvalidShard = 4010;
inline constexpr uint16_t kShardingRequired = 4011;
inline constexpr uint16_t kInvalidApiVersion = 4012;
inline constexpr uint16_t kInvalidIntents = 4013;
inline constexpr uint16_t kDisallowedIntents = 4014;

// Whether Discord has forgotten the session after it closed with this code itself.
constexpr bool EndsSession(uint16_t code) {
  return code == kNormal || code == kNotAuthenticated || code == kAuthenticationFailed ||
         code == kInvalidSequence || (code >= kSessionTimedOut && code <= kDisallowedIntents);
}
}  // namespace close_code

// https://discord.com/developers/docs/events/gateway#gateway-intents
namespace intent {
inline constexpr uint64_t kGuilds = 1u << 0;
inline constexpr uint64_t kGuildMembers = 1u << 1;
inline constexpr uint64_t kGuildPresences = 1u << 8;
inline constexpr uint64_t kDocumented = 0x331FFFF;

// Any one of the bits that the result has lets an event of this type through; 0: it is sent
// regardless of intents. Unknown types are passed through, as Discord does with what it has not
// documented.
uint64_t For(std::string_view type, bool in_guild);
}  // namespace intent

}  // namespace shardd::simulator
