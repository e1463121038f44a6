#include "events/state.h"

#include <algorithm>
#include <cstddef>

namespace shardd::events {
namespace {

// The session of that number, if it is the shard's present one.
SessionRecord* Present(State* state, ShardId shard, uint32_t session) {
  const auto found = state->shards.find(shard);
  if (found == state->shards.end() || found->second.last_session != session) return nullptr;
  return found->second.session.has_value() ? &*found->second.session : nullptr;
}

void ForgetCopies(State* state) {
  state->copies.clear();
  state->copy_count = 0;
}

void ApplyTo(State* state, const SessionOpened& change) {
  ShardRecord& shard = state->shards[change.shard];
  shard.last_session = change.session;
  shard.session =
      SessionRecord{.id = change.id, .resume_url = change.resume_url, .intents = change.intents};
}

void ApplyTo(State* state, const SessionEnded& change) {
  if (Present(state, change.shard, change.session) == nullptr) return;
  state->shards[change.shard].session.reset();
}

void ApplyTo(State* state, const SequencePassed& change) {
  SessionRecord* session = Present(state, change.shard, change.session);
  if (session != nullptr)
    session->last_sequence = std::max(session->last_sequence, change.sequence);
}

void ApplyTo(State* state, const ShardWanted& change) {
  state->shards[change.shard].wanted = change.wanted;
}

void ApplyTo(State* state, const GenerationBegun& change) {
  // They are of sessions of the generation that was.
  if (change.shard_count != state->shard_count) ForgetCopies(state);
  state->generation = change.generation;
  state->shard_count = change.shard_count;
  std::erase_if(state->shards, [&](const auto& each) {
    if (each.first.count == change.shard_count) return false;
    state->session_floor = std::max(state->session_floor, each.second.last_session);
    return true;
  });
  state->copies.clear();
}

void ApplyTo(State* state, const GatewayKnown& change) {
  state->api_url = change.api_url;
  state->gateway_url = change.gateway_url;
}

void ApplyTo(State* state, const SessionNumbered& change) {
  state->session_floor = std::max(state->session_floor, change.session);
}

void ApplyTo(State* state, const RescaleChanged& change) { state->rescale = change.rescale; }

void ApplyTo(State* state, const CopiesExpected& change) {
  for (const ExpectedCopy& copy : change.copies) {
    std::deque<int64_t>& times = state->copies[copy.key];
    times.insert(std::ranges::upper_bound(times, copy.unix_nanos), copy.unix_nanos);
    ++state->copy_count;
  }
  // Some at a time: each time all of them are looked at.
  if (state->copy_count > kMostExpectedCopies) {
    KeepNewestCopies(kMostExpectedCopies - kMostExpectedCopies / 8, state);
  }
}

void ApplyTo(State* state, const CopyCame& change) {
  const auto found = state->copies.find(change.key);
  if (found != state->copies.end()) {
    found->second.pop_front();
    --state->copy_count;
    if (found->second.empty()) state->copies.erase(found);
  }
  ApplyTo(state,
          SequencePassed{
              .shard = change.shard, .session = change.session, .sequence = change.sequence});
}

void ApplyTo(State* state, const CopiesForgotten&) { ForgetCopies(state); }

}  // namespace

void Apply(const StateChange& change, State* state) {
  std::visit([state](const auto& each) { ApplyTo(state, each); }, change);
}

size_t KeepNewestCopies(size_t most, State* state) {
  const size_t count = CountCopies(*state);
  if (count <= most) return 0;
  const size_t too_many = count - most;
  std::vector<int64_t> times;
  times.reserve(count);
  for (const auto& [key, of_key] : state->copies)
    times.insert(times.end(), of_key.begin(), of_key.end());
  const auto newest_out = times.begin() + static_cast<std::ptrdiff_t>(too_many) - 1;
  std::ranges::nth_element(times, newest_out);
  const int64_t last_out = *newest_out;
  // As many of that very time as are still needed.
  size_t left = too_many;
  for (auto& [key, of_key] : state->copies) {
    for (; !of_key.empty() && of_key.front() < last_out; --left) of_key.pop_front();
  }
  for (auto& [key, of_key] : state->copies) {
    for (; left > 0 && !of_key.empty() && of_key.front() == last_out; --left) of_key.pop_front();
  }
  std::erase_if(state->copies, [](const auto& each) { return each.second.empty(); });
  state->copy_count = most;
  return too_many;
}

}  // namespace shardd::events
