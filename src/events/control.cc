#include "events/control.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>

#include "events/control.pb.h"

namespace shardd::events {
namespace {

static_assert(std::endian::native == std::endian::little, "copies are little-endian on disk");

constexpr size_t kKeyBytes = 25;
static_assert(kKeyBytes + sizeof(int64_t) == kExpectedCopyBytes);

template <typename T>
void PutNumber(T number, std::string* bytes) {
  bytes->append(reinterpret_cast<const char*>(&number), sizeof number);
}

// REQUIRES: there are so many.
template <typename T>
T TakeNumber(std::string_view* bytes) {
  T number;
  std::memcpy(&number, bytes->data(), sizeof number);
  bytes->remove_prefix(sizeof number);
  return number;
}

void PutKey(const CopyKey& key, std::string* bytes) {
  PutNumber(key.guild_id, bytes);
  PutNumber(key.producer, bytes);
  PutNumber(key.high, bytes);
  PutNumber(key.low, bytes);
}

CopyKey TakeKey(std::string_view* bytes) {
  CopyKey key;
  key.guild_id = TakeNumber<uint64_t>(bytes);
  key.producer = TakeNumber<uint8_t>(bytes);
  key.high = TakeNumber<uint64_t>(bytes);
  key.low = TakeNumber<uint64_t>(bytes);
  return key;
}

void PutCopy(const CopyKey& key, int64_t unix_nanos, std::string* bytes) {
  PutKey(key, bytes);
  PutNumber(unix_nanos, bytes);
}

// What is no whole copy at the end is none.
CopiesExpected TakeCopies(std::string_view bytes) {
  CopiesExpected expected;
  expected.copies.reserve(bytes.size() / kExpectedCopyBytes);
  while (bytes.size() >= kExpectedCopyBytes) {
    const CopyKey key = TakeKey(&bytes);
    expected.copies.push_back({.key = key, .unix_nanos = TakeNumber<int64_t>(&bytes)});
  }
  return expected;
}

// At most so many bytes, and no character in part.
std::string_view Cut(std::string_view text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;
  return text.substr(0, most);
}

void EncodeRescale(const RescaleRecord& rescale, disk::Rescale* to) {
  to->set_from_shard_count(rescale.from_shard_count);
  to->set_to_shard_count(rescale.to_shard_count);
  to->set_step(static_cast<uint32_t>(rescale.step));
  to->set_reason(std::string(Cut(rescale.reason, kMaxRescaleReasonBytes)));
}

// Nothing: of a newer version, or none of ours.
std::optional<RescaleRecord> DecodeRescale(const disk::Rescale& from) {
  if (from.step() < static_cast<uint32_t>(RescaleStep::kRunning) ||
      from.step() > static_cast<uint32_t>(RescaleStep::kFailed) ||
      from.from_shard_count() > kMaxShardCount || from.to_shard_count() > kMaxShardCount) {
    return std::nullopt;
  }
  return RescaleRecord{.from_shard_count = from.from_shard_count(),
                       .to_shard_count = from.to_shard_count(),
                       .step = static_cast<RescaleStep>(from.step()),
                       .reason = std::string(Cut(from.reason(), kMaxRescaleReasonBytes))};
}

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

void Encode(const SessionNumbered& change, disk::Control* control) {
  control->set_session_numbered(change.session);
}

void Encode(const RescaleChanged& change, disk::Control* control) {
  EncodeRescale(change.rescale, control->mutable_rescale_changed());
}

void Encode(const CopiesExpected& change, disk::Control* control) {
  std::string& bytes = *control->mutable_copies_expected();
  bytes.reserve(change.copies.size() * kExpectedCopyBytes);
  for (const ExpectedCopy& copy : change.copies) PutCopy(copy.key, copy.unix_nanos, &bytes);
}

void Encode(const CopyCame& change, disk::Control* control) {
  SetShard(change.shard, control);
  control->mutable_copy_came()->set_session(change.session);
  control->mutable_copy_came()->set_sequence(change.sequence);
  PutKey(change.key, control->mutable_copy_came()->mutable_key());
}

void Encode(const CopiesForgotten&, disk::Control* control) { control->set_copies_forgotten(true); }

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
  state.session_floor = from.session_floor();
  if (from.has_rescale()) state.rescale = DecodeRescale(from.rescale());
  Apply(TakeCopies(from.copies()), &state);
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
  to.set_session_floor(state.session_floor);
  if (state.rescale.has_value()) EncodeRescale(*state.rescale, to.mutable_rescale());
  for (const auto& [key, times] : state.copies) {
    for (const int64_t unix_nanos : times) PutCopy(key, unix_nanos, to.mutable_copies());
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
    case disk::Control::kSessionNumbered:
      Apply(SessionNumbered{.session = control.session_numbered()}, state);
      return true;
    case disk::Control::kRescaleChanged: {
      auto rescale = DecodeRescale(control.rescale_changed());
      if (!rescale.has_value()) return false;
      Apply(RescaleChanged{.rescale = *std::move(rescale)}, state);
      return true;
    }
    case disk::Control::kCopiesExpected:
      if (control.copies_expected().size() % kExpectedCopyBytes != 0) return false;
      Apply(TakeCopies(control.copies_expected()), state);
      return true;
    case disk::Control::kCopyCame: {
      std::string_view key = control.copy_came().key();
      if (key.size() != kKeyBytes) return false;
      Apply(CopyCame{.shard = shard,
                     .session = control.copy_came().session(),
                     .sequence = control.copy_came().sequence(),
                     .key = TakeKey(&key)},
            state);
      return true;
    }
    case disk::Control::kCopiesForgotten:
      Apply(CopiesForgotten{}, state);
      return true;
    case disk::Control::WHAT_NOT_SET:
      // Of a newer version, which marks what an older one must not ignore in the file's header.
      return true;
  }
  return false;
}

}  // namespace shardd::events
