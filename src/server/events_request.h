#pragma once

#include "absl/status/statusor.h"
#include "events/log.h"
#include "server/events_reactor.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// Checks a request and finds where in the log it starts.
absl::StatusOr<EventsStart> ResolveEventsRequest(const v1::EventsRequest& request,
                                                 const events::Log& log);

}  // namespace shardd::server
