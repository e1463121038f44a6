#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "events/consumers.h"
#include "events/log.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// The consumer of a name and its partition; no partition is 0 of 1.
absl::StatusOr<events::ConsumerKey> ResolveConsumer(const std::string& name,
                                                    const v1::Partition* partition);

struct CheckedAck {
  events::ConsumerKey consumer;
  events::Cursor cursor;
};
// Checks a request against what `log` has had so far.
absl::StatusOr<CheckedAck> ResolveAckRequest(const v1::AckRequest& request, const events::Log& log);

}  // namespace shardd::server
