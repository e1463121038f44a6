#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "gateway/send_command.h"
#include "gateway/send_member_limit.h"
#include "gateway/send_window.h"

namespace shardd::gateway {

// What a shard's bot wants sent, and when it may go, without I/O. Commands wait here, for the shard
// to be ready and for Discord's limits:
// https://discord.com/developers/docs/events/gateway#rate-limiting. They go in the order in which
// they came, but one that waits for a limit of its own (presences, all members of a guild) holds up
// no other. A presence that has not gone out yet is replaced by a newer one, which takes its place.
//
// What no longer goes before its deadline is refused as soon as that shows. Not thread-safe: it
// lives on its shard's worker.
class SendQueue {
 public:
  // Discord closes a connection with 4008 that sends more, heartbeats and IDENTIFY or RESUME
  // included. The windows are a little longer than Discord's, since what is sent evenly may arrive
  // bunched.
  static constexpr size_t kPayloadsPerWindow = 120;
  static constexpr std::chrono::milliseconds kPayloadWindow{60'500};
  static constexpr size_t kPresencesPerWindow = 5;
  static constexpr std::chrono::milliseconds kPresenceWindow{20'500};
  static constexpr size_t kKeptForBeats = 3;
  // Commands that wait, of at most kMaxPayloadBytes each.
  static constexpr size_t kMostWaiting = 256;
  // How long a command without a deadline waits at most.
  static constexpr std::chrono::milliseconds kLongestWait{60'000};

  // Payloads that commands may be of those in a window. The rest is for heartbeats: one an
  // interval, as many again (though not over ten) that the server may ask for, and three for the
  // limits' edges. Odd intervals leave some for commands all the same.
  static size_t CommandsPerWindow(std::chrono::milliseconds heartbeat_interval);

  // `presence`: what IDENTIFY carries before any is sent, or empty.
  explicit SendQueue(SendMemberLimit* members, std::string presence = {})
      : members_(members), sent_presence_(std::move(presence)) {}
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  // ---- What the bot wants ----

  // The reply may come at once.
  void Add(SendRequest request, SteadyTime now);
  // Unless it has gone out, or was never here.
  void Cancel(uint64_t id, SteadyTime now);
  void EndAll(SendOutcome outcome, SteadyTime now);

  // What IDENTIFY carries from now on. REQUIRES: is_empty().
  void SetPresence(std::string presence) { sent_presence_ = std::move(presence); }

  // ---- What the connection does ----

  // It has ended, or a new one begins, of which Discord has counted nothing yet. Nothing may go
  // before BecomeReady.
  void ConnectionChanged();
  // READY or RESUMED has come. What is sent earlier is answered by 4003.
  void BecomeReady(std::chrono::milliseconds heartbeat_interval, SteadyTime now);
  // Any payload has been written to the connection.
  void Written(SteadyTime now) { payloads_.Record(now); }
  // Whether a heartbeat that is not of the schedule may still go, behind `queued` other payloads:
  // some room stays for those of the schedule.
  bool HasRoomForAskedBeat(size_t queued, SteadyTime now) const {
    return payloads_.FreeAt(kPayloadsPerWindow - kKeptForBeats, now, queued) <= now;
  }

  // The next command, if one may go now. Its replies are the caller's: more than one where a
  // presence has replaced others.
  struct Outgoing {
    std::string text;
    struct Reply {
      SendReply reply;
      SteadyTime queued_at;
    };
    std::vector<Reply> replies;

    void Say(SendOutcome outcome, SteadyTime now);
  };
  std::optional<Outgoing> Take(SteadyTime now);

  // Ends what no longer can go in time. To be called at NextEnd(), and when anything has changed.
  void Review(SteadyTime now);

  // ---- What is to be known ----

  bool is_empty() const { return waiting_.empty(); }
  bool is_ready() const { return ready_; }
  // When Take() may have something; SteadyTime::max(): not as things are.
  SteadyTime NextTake(SteadyTime now) const;
  // The earliest deadline.
  SteadyTime NextEnd() const;
  // The newest presence that an IDENTIFY can carry, sent or waiting; empty: none.
  const std::string& presence() const;

 private:
  struct Waiting {
    SendRequest request;
    SteadyTime queued_at;
    SteadyTime deadline;
    bool has_ended = false;
  };

  static bool IsPresenceUpdate(const Waiting& waiting);
  SteadyTime OwnLimitFreeAt(const Waiting& waiting, SteadyTime now) const;
  void End(Waiting& waiting, SendOutcome outcome, SteadyTime now,
           std::optional<std::chrono::milliseconds> retry_after = std::nullopt);
  void RefuseWhatComesTooLate(SteadyTime now);

  SendMemberLimit* const members_;
  std::vector<Waiting> waiting_;  // in order of arrival
  std::string sent_presence_;
  bool ready_ = false;
  size_t commands_per_window_ = 1;
  SendWindow payloads_{kPayloadWindow, kPayloadsPerWindow};
  SendWindow presences_{kPresenceWindow, kPresencesPerWindow};
};

}  // namespace shardd::gateway
