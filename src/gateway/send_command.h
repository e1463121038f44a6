#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/clock.h"
#include "gateway/limits.h"
#include "gateway/opcode.h"

namespace shardd::gateway {

// Discord drops a request with a longer `nonce` (op 8) without a word.
inline constexpr size_t kMaxNonceBytes = 32;

// One payload of the kinds that a bot sends by itself.
struct Command {
  CommandOp op = CommandOp::kPresenceUpdate;
  std::string text;  // the whole payload
  // The guild, if it asks for all of a guild's members; else 0.
  uint64_t all_members_of = 0;
  // Of op 4: whose call the bot joins or leaves; else 0.
  uint64_t voice_guild = 0;
  bool joins_voice = false;
  // Of op 3: the JSON of `d`, if that is a presence that an IDENTIFY can carry; else empty.
  std::string presence;
};

enum class CommandFault {
  kNone,
  kOp,           // none that a bot may send
  kTooLarge,     // the whole payload would be over kMaxPayloadBytes
  kNotAnObject,  // `data` is not one JSON object in UTF-8
  kNonce,        // longer than kMaxNonceBytes
};

// Checks what a caller wants sent and makes the payload `{"op":N,"d":DATA}` of it.
CommandFault MakeCommand(uint32_t op, std::string_view data, Command* command);

// What became of a command.
enum class SendOutcome {
  kSent,         // handed to the socket
  kNoSuchShard,  // the shard never was spawned
  kNotRunning,   // the shard is stopped or has failed
  kNotReady,     // the shard had no session for as long as the command could wait
  kRateLimited,  // Discord's limits do not let it go before its deadline
  kQueueFull,    // too many wait already
  kInterrupted,  // the connection ended while it was written: it may have arrived
  kCancelled,
  kStopping,  // the pool is being stopped
};

struct SendResult {
  SendOutcome outcome = SendOutcome::kStopping;
  std::chrono::nanoseconds held{0};                        // how long it waited
  std::optional<std::chrono::milliseconds> retry_after{};  // where waiting helps
};

// The way back to whoever wants to know. Says something exactly once, whatever happens: at the
// latest when it is destroyed.
class SendReply {
 public:
  // Called on any thread, within a call to the pool or a worker's round; must not block, and must
  // not call the pool.
  using Done = std::function<void(const SendResult&)>;

  explicit SendReply(Done done) : done_(std::move(done)) {}
  SendReply(SendReply&& other) noexcept : done_(std::exchange(other.done_, nullptr)) {}
  SendReply& operator=(SendReply&& other) noexcept {
    std::swap(done_, other.done_);
    return *this;
  }
  ~SendReply() { Say({}); }

  void Say(const SendResult& result) {
    if (const Done done = std::exchange(done_, nullptr)) done(result);
  }

 private:
  Done done_;
};

// A command on its way to a shard.
struct SendRequest {
  uint64_t id = 0;  // names it for Cancel
  Command command;
  // It must not be sent from then on. Unset: it may wait for SendQueue::kLongestWait.
  std::optional<SteadyTime> deadline;
  SendReply reply;
};

}  // namespace shardd::gateway
