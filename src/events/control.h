#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "events/state.h"

namespace shardd::events {

// The payload of control entries: src/events/control.proto.
std::string EncodeControl(const StateChange& change);
std::string EncodeCheckpoint(const State& state);
// What a checkpoint takes for each copy that is expected.
inline constexpr size_t kExpectedCopyBytes = 33;

// Applies what Encode... wrote; a checkpoint replaces all of `state`. False: it is none of ours,
// and `state` is as it was.
bool ApplyControl(std::string_view payload, State* state);

}  // namespace shardd::events
