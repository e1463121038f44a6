#pragma once

#include "absl/status/statusor.h"
#include "events/log.h"
#include "server/events_reactor.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// Checks a request and finds where in the log it starts; a named consumer's kept cursor does not
// count here. `running_shard_count`: 0 where there is no generation.
absl::StatusOr<EventsStart> ResolveEventsRequest(const v1::EventsRequest& request,
                                                 const events::Log& log,
                                                 uint32_t running_shard_count);

// Kept for a consumer of which nobody knows where it stood. No log has this id.
inline constexpr events::Cursor kLostCursor = {};

// Has the stream start where `cursor` stands, or, where this log cannot go on from it, at the
// oldest kept event with a gap that says why. `text`: the cursor as it came.
void StartAt(const events::Cursor& cursor, const std::string& text, const events::Log& log,
             EventsStart& start);

}  // namespace shardd::server
