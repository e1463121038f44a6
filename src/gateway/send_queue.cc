#include "gateway/send_queue.h"

#include <algorithm>
#include <map>

namespace shardd::gateway {
namespace {

using std::chrono::milliseconds;

// What a caller is told to wait where nobody knows how long.
constexpr milliseconds kAskAgain{1'000};
// That commands may always be; heartbeats at such intervals break Discord's limit by themselves.
constexpr size_t kLeastCommands = 10;
// Heartbeats in a window that the server is expected to ask for at most.
constexpr size_t kMostAskedBeats = 10;

milliseconds Until(SteadyTime then, SteadyTime now) {
  return std::max(std::chrono::ceil<milliseconds>(then - now), milliseconds(1));
}

}  // namespace

size_t SendQueue::CommandsPerWindow(milliseconds heartbeat_interval) {
  const milliseconds interval = std::max(heartbeat_interval, milliseconds(1));
  const auto beats =
      static_cast<size_t>((milliseconds(60'000) + interval - milliseconds(1)) / interval);
  const size_t reserve = beats + std::min(beats, kMostAskedBeats) + 3;
  return std::max(kPayloadsPerWindow - std::min(reserve, kPayloadsPerWindow), kLeastCommands);
}

void SendQueue::Outgoing::Say(SendOutcome outcome, SteadyTime now) {
  for (Reply& each : replies) {
    each.reply.Say({.outcome = outcome, .held = now - each.queued_at});
  }
  replies.clear();
}

bool SendQueue::IsPresenceUpdate(const Waiting& waiting) {
  return waiting.request.command.op == CommandOp::kPresenceUpdate;
}

void SendQueue::End(Waiting& waiting, SendOutcome outcome, SteadyTime now,
                    std::optional<milliseconds> retry_after) {
  waiting.has_ended = true;
  waiting.request.reply.Say(
      {.outcome = outcome, .held = now - waiting.queued_at, .retry_after = retry_after});
}

// ---- What the bot wants ----

void SendQueue::Add(SendRequest request, SteadyTime now) {
  Review(now);
  const SteadyTime deadline = request.deadline.value_or(now + kLongestWait);
  waiting_.push_back({.request = std::move(request), .queued_at = now, .deadline = deadline});
  if (waiting_.size() > kMostWaiting) {
    const SteadyTime next = NextTake(now);
    End(waiting_.back(), SendOutcome::kQueueFull, now,
        next == SteadyTime::max() ? kAskAgain : Until(next, now));
    waiting_.pop_back();
    return;
  }
  Review(now);
}

void SendQueue::Cancel(uint64_t id, SteadyTime now) {
  const auto found =
      std::ranges::find(waiting_, id, [](const Waiting& each) { return each.request.id; });
  if (found == waiting_.end()) return;
  End(*found, SendOutcome::kCancelled, now);
  waiting_.erase(found);
}

void SendQueue::EndAll(SendOutcome outcome, SteadyTime now) {
  for (Waiting& each : waiting_) End(each, outcome, now);
  waiting_.clear();
}

// ---- What the connection does ----

void SendQueue::ConnectionChanged() {
  ready_ = false;
  payloads_.Clear();
  presences_.Clear();
}

void SendQueue::BecomeReady(milliseconds heartbeat_interval, SteadyTime now) {
  ready_ = true;
  commands_per_window_ = CommandsPerWindow(heartbeat_interval);
  Review(now);
}

std::optional<SendQueue::Outgoing> SendQueue::Take(SteadyTime now) {
  Review(now);
  if (NextTake(now) > now) return std::nullopt;
  for (auto each = waiting_.begin(); each != waiting_.end(); ++each) {
    const Command& command = each->request.command;
    if (OwnLimitFreeAt(*each, now) > now) continue;
    // Another shard may have asked for them since.
    if (command.all_members_of != 0 && !members_->Take(command.all_members_of, now)) continue;

    Outgoing outgoing;
    const auto move_out = [&](Waiting& waiting) {
      outgoing.text = std::move(waiting.request.command.text);
      outgoing.replies.push_back({std::move(waiting.request.reply), waiting.queued_at});
    };
    if (!IsPresenceUpdate(*each)) {
      move_out(*each);
      waiting_.erase(each);
      return outgoing;
    }
    presences_.Record(now);
    for (Waiting& waiting : waiting_) {
      if (!IsPresenceUpdate(waiting)) continue;
      if (!waiting.request.command.presence.empty()) {
        sent_presence_ = std::move(waiting.request.command.presence);
      }
      move_out(waiting);
    }
    std::erase_if(waiting_, IsPresenceUpdate);
    return outgoing;
  }
  return std::nullopt;
}

// ---- Limits ----

SteadyTime SendQueue::OwnLimitFreeAt(const Waiting& waiting, SteadyTime now) const {
  const Command& command = waiting.request.command;
  if (IsPresenceUpdate(waiting)) return presences_.FreeAt(kPresencesPerWindow, now);
  if (command.all_members_of != 0) {
    return std::max(members_->FreeAt(command.all_members_of), now);
  }
  return now;
}

void SendQueue::Review(SteadyTime now) {
  if (waiting_.empty()) return;
  for (Waiting& each : waiting_) {
    if (each.deadline > now) continue;
    End(each, ready_ ? SendOutcome::kRateLimited : SendOutcome::kNotReady, now, kAskAgain);
  }
  RefuseWhatComesTooLate(now);
  std::erase_if(waiting_, [](const Waiting& each) { return each.has_ended; });
}

// Goes through what waits as it will go out, if nothing else comes.
void SendQueue::RefuseWhatComesTooLate(SteadyTime now) {
  struct Turn {
    SteadyTime own;  // when its own limit lets it
    Waiting* waiting;
  };
  std::vector<Turn> turns;
  std::map<uint64_t, int> requests;  // for all members, by guild
  for (Waiting& each : waiting_) {
    if (each.has_ended) continue;
    SteadyTime own = OwnLimitFreeAt(each, now);
    if (const uint64_t guild = each.request.command.all_members_of; guild != 0) {
      own += requests[guild]++ * SendMemberLimit::kPeriod;
    }
    turns.push_back({own, &each});
  }
  std::ranges::stable_sort(turns, {}, &Turn::own);

  size_t ahead = 0;
  std::optional<SteadyTime> presence_at;  // all that wait go as one
  for (const Turn& turn : turns) {
    Waiting& waiting = *turn.waiting;
    SteadyTime at = turn.own;
    if (IsPresenceUpdate(waiting) && presence_at) {
      at = *presence_at;
    } else if (ready_) {
      at = std::max(at, payloads_.FreeAt(commands_per_window_, now, ahead));
    }
    if (at >= waiting.deadline) {
      End(waiting, SendOutcome::kRateLimited, now, Until(at, now));
      continue;
    }
    if (IsPresenceUpdate(waiting)) {
      if (presence_at) continue;
      presence_at = at;
    }
    ++ahead;
  }
}

SteadyTime SendQueue::NextTake(SteadyTime now) const {
  if (!ready_ || waiting_.empty()) return SteadyTime::max();
  SteadyTime own = SteadyTime::max();
  for (const Waiting& each : waiting_) {
    own = std::min(own, OwnLimitFreeAt(each, now));
    if (own <= now) break;
  }
  return std::max(own, payloads_.FreeAt(commands_per_window_, now));
}

SteadyTime SendQueue::NextEnd() const {
  SteadyTime next = SteadyTime::max();
  for (const Waiting& each : waiting_) next = std::min(next, each.deadline);
  return next;
}

const std::string& SendQueue::presence() const {
  for (auto each = waiting_.rbegin(); each != waiting_.rend(); ++each) {
    const std::string& presence = each->request.command.presence;
    if (!presence.empty()) return presence;
  }
  return sent_presence_;
}

}  // namespace shardd::gateway
