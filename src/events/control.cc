#include "events/control.h"

#include "events/control.pb.h"

namespace shardd::events {
namespace {

void SetShard(ShardId shard, disk::Control* control) {
  control->set_shard_id(shard.id);
  control->set_shard_count(shard.count);
}

void Encode(const SessionOpened& change, disk::Control* control) {
  SetShard(change.shard, control);
  disk::SessionOpened& opened = *control->mutable_session_opened();
  opened.set_session(change.session);
  opened.set_id(change.id);
  opened.set_resume_url(change.resume_url);
  opened.set_intents(change.intents);
}

void Encode(const SessionEnded& change, disk::Control* control) {
  SetShard(change.shard, control);
  control->set_session_ended(change.session);
}

void Encode(const SequencePassed& change, disk::Control* control) {
  SetShard(change.shard, control);
  control->mutable_sequence_passed()->set_session(change.session);
  control->mutable_sequence_passed()->set_sequence(change.sequence);
}

void Encode(const ShardWanted& change, disk::Control* control) {
  SetShard(change.shard, control);
  control->set_wanted(change.wanted);
}

void Encode(const GenerationBegun& change, disk::Control* control) {
  control->set_shard_count(change.shard_count);
  control->set_generation(change.generation);
}

void Encode(const GatewayKnown& change, disk::Control* control) {
  control->mutable_gateway_known()->set_api_url(change.api_url);
  control->mutable_gateway_known()->set_gateway_url(change.gateway_url);
}

State Decode(const disk::State& from) {
  State state;
  state.generation = from.generation();
  state.shard_count = from.shard_count();
  state.api_url = from.api_url();
  state.gateway_url = from.gateway_url();
  for (const disk::Shard& each : from.shards()) {
    ShardRecord& shard = state.shards[{.id = each.id(), .count = each.count()}];
    shard.wanted = !each.stopped();
    shard.last_session = each.last_session();
    if (!each.has_session()) continue;
    shard.session = SessionRecord{.id = each.session().id(),
                                  .resume_url = each.session().resume_url(),
                                  .intents = each.session().intents(),
                                  .last_sequence = each.session().last_sequence(),
                                  .last_event_unix_nanos = each.session().last_event_unix_nanos()};
  }
  return state;
}

}  // namespace

std::string EncodeControl(const StateChange& change) {
  disk::Control control;
  std::visit([&](const auto& each) { Encode(each, &control); }, change);
  return control.SerializeAsString();
}

std::string EncodeCheckpoint(const State& state) {
  disk::Control control;
  disk::State& to = *control.mutable_checkpoint();
  to.set_generation(state.generation);
  to.set_shard_count(state.shard_count);
  to.set_api_url(state.api_url);
  to.set_gateway_url(state.gateway_url);
  for (const auto& [id, shard] : state.shards) {
    disk::Shard& each = *to.add_shards();
    each.set_id(id.id);
    each.set_count(id.count);
    each.set_stopped(!shard.wanted);
    each.set_last_session(shard.last_session);
    if (!shard.session.has_value()) continue;
    disk::Session& session = *each.mutable_session();
    session.set_id(shard.session->id);
    session.set_resume_url(shard.session->resume_url);
    session.set_intents(shard.session->intents);
    session.set_last_sequence(shard.session->last_sequence);
    session.set_last_event_unix_nanos(shard.session->last_event_unix_nanos);
  }
  return control.SerializeAsString();
}

bool ApplyControl(std::string_view payload, State* state) {
  disk::Control control;
  if (!control.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return false;
  const ShardId shard{.id = control.shard_id(), .count = control.shard_count()};
  switch (control.what_case()) {
    case disk::Control::kCheckpoint:
      *state = Decode(control.checkpoint());
      return true;
    case disk::Control::kSessionOpened:
      Apply(SessionOpened{.shard = shard,
                          .session = control.session_opened().session(),
                          .id = control.session_opened().id(),
                          .resume_url = control.session_opened().resume_url(),
                          .intents = control.session_opened().intents()},
            state);
      return true;
    case disk::Control::kSessionEnded:
      Apply(SessionEnded{.shard = shard, .session = control.session_ended()}, state);
      return true;
    case disk::Control::kSequencePassed:
      Apply(SequencePassed{.shard = shard,
                           .session = control.sequence_passed().session(),
                           .sequence = control.sequence_passed().sequence()},
            state);
      return true;
    case disk::Control::kWanted:
      Apply(ShardWanted{.shard = shard, .wanted = control.wanted()}, state);
      return true;
    case disk::Control::kGeneration:
      Apply(GenerationBegun{.generation = control.generation(), .shard_count = shard.count}, state);
      return true;
    case disk::Control::kGatewayKnown:
      Apply(GatewayKnown{.api_url = control.gateway_known().api_url(),
                         .gateway_url = control.gateway_known().gateway_url()},
            state);
      return true;
    case disk::Control::WHAT_NOT_SET:
      // Of a newer version, which marks what an older one must not ignore in the file's header.
      return true;
  }
  return false;
}

}  // namespace shardd::events
