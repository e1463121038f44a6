#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shardd::gateway {

// What a shard does after a connection has ended.
enum class NextStep {
  kResume,  // a refused RESUME costs nothing, so this is the answer wherever the session may still
            // stand
  kIdentify,  // the session is gone
  kStop,      // trying again would fail again, or cost the bot its token
};

// How a connection ended, other than by a close frame.
enum class EndCause {
  kConnectionLost,           // no close frame came
  kReconnectRequested,       // op 7
  kInvalidSessionResumable,  // op 9 with d = true
  kInvalidSession,           // op 9 with d = false
  kZombie,                   // heartbeats stay without an answer
  kGarbage,                  // what came was not the protocol
  kOversize,                 // a payload was larger than --max-message-bytes
  kSequenceGap,              // `s` jumped: what lies between can still be replayed
  kSilence,                  // only heartbeats went on
  kException,                // ours
  kStalled,                  // our worker stood still
  kHelloTimeout,
  kIdentifyTimeout,
  kResumeTimeout,
};

// How long Discord wants a client to stay away.
enum class Pause {
  kNone,
  kInvalidSession,  // 1 to 5 seconds at random between an op 9 and the next try
  kSendWindow,      // until what was sent before no longer counts
};

struct Aftermath {
  NextStep next;
  Pause pause;
  bool died;                // whatever becomes of the session (crash_guard.h)
  std::string_view reason;  // in words; a literal
  // kStop: what stopped the shard says nothing of its session, so the next start resumes it.
  bool keeps_session = false;
};

// The one table of what follows a disconnect; `code` is that of the server's close frame, or none
// if it had none.
// https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes
Aftermath AfterClose(std::optional<uint16_t> code);
Aftermath AfterEnd(EndCause cause);

// "4014: privileged intents that are not switched on for this application: ..."
std::string DescribeClose(std::optional<uint16_t> code);

// 1000 and 1001 from a client end its session at once, any other code keeps it. Discord documents
// no code of its own for this; 4000 is what most libraries send.
inline constexpr uint16_t kCloseKeepingSession = 4000;
inline constexpr uint16_t kCloseEndingSession = 1000;

}  // namespace shardd::gateway
