#include "events/state.h"

#include <algorithm>

namespace shardd::events {
namespace {

// The session of that number, if it is the shard's present one.
SessionRecord* Present(State* state, ShardId shard, uint32_t session) {
  const auto found = state->shards.find(shard);
  if (found == state->shards.end() || found->second.last_session != session) return nullptr;
  return found->second.session.has_value() ? &*found->second.session : nullptr;
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
  state->generation = change.generation;
  state->shard_count = change.shard_count;
  std::erase_if(state->shards,
                [&](const auto& each) { return each.first.count != change.shard_count; });
}

void ApplyTo(State* state, const GatewayKnown& change) {
  state->api_url = change.api_url;
  state->gateway_url = change.gateway_url;
}

}  // namespace

void Apply(const StateChange& change, State* state) {
  std::visit([state](const auto& each) { ApplyTo(state, each); }, change);
}

}  // namespace shardd::events
