#include "server/events_request.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

// The bounds that the proto states.
constexpr uint32_t kMaxBatchEvents = 4096;
constexpr uint32_t kDefaultBatchBytes = 64 << 10;
constexpr uint32_t kMaxBatchBytes = 4 << 20;
constexpr uint32_t kMaxDelayMs = 10'000;

absl::Status NotSupported(const char* field) {
  return Error(absl::StatusCode::kUnimplemented, reason::kFieldNotSupported,
               absl::StrCat("EventsRequest.", field,
                            " is not built in this version of shardd: leave it unset"));
}

absl::Status CheckSupported(const v1::EventsRequest& request) {
  if (!request.consumer().empty()) return NotSupported("consumer");
  if (request.snapshot()) return NotSupported("snapshot");
  const v1::Filter& filter = request.filter();
  if (filter.types_size() > 0) return NotSupported("filter.types");
  if (filter.shard_ids_size() > 0) return NotSupported("filter.shard_ids");
  if (filter.shard_count() > 0) return NotSupported("filter.shard_count");
  if (filter.guild_ids_size() > 0) return NotSupported("filter.guild_ids");
  if (filter.has_partition()) return NotSupported("filter.partition");
  return absl::OkStatus();
}

// A cursor that this log cannot go on from: the stream starts at the oldest kept event, and says
// so.
void StartWithGap(v1::GapReason reason, const std::string& from, const events::Log& log,
                  EventsStart& start) {
  start.position = log.oldest();
  v1::Gap& gap = start.gap.emplace();
  gap.set_from(from);
  gap.set_to(events::FormatCursor(log.CursorAt(start.position)));
  gap.set_reason(reason);
}

}  // namespace

absl::StatusOr<EventsStart> ResolveEventsRequest(const v1::EventsRequest& request,
                                                 const events::Log& log) {
  if (auto status = CheckSupported(request); !status.ok()) return status;

  EventsStart start;
  start.limits.max_events = request.max_batch_events() == 0
                                ? kMaxBatchEvents
                                : std::min(request.max_batch_events(), kMaxBatchEvents);
  start.limits.max_bytes = request.max_batch_bytes() == 0
                               ? kDefaultBatchBytes
                               : std::min(request.max_batch_bytes(), kMaxBatchBytes);
  start.limits.max_event_bytes = request.max_event_bytes();
  start.max_delay = std::chrono::milliseconds(std::min(request.max_delay_ms(), kMaxDelayMs));

  switch (request.start_case()) {
    case v1::EventsRequest::kCursor: {
      const auto cursor = events::ParseCursor(request.cursor());
      if (!cursor.ok()) return WithReason(cursor.status(), reason::kCursorMalformed);
      if (cursor->log != log.id()) {
        StartWithGap(v1::GAP_REASON_OTHER_LOG, request.cursor(), log, start);
      } else if (cursor->offset > log.end()) {
        StartWithGap(v1::GAP_REASON_BEYOND_END, request.cursor(), log, start);
      } else {
        start.position = cursor->offset;
      }
      return start;
    }
    case v1::EventsRequest::kFrom:
      if (request.from() == v1::START_FROM_EARLIEST) {
        start.position = log.oldest();
        return start;
      }
      if (!v1::StartFrom_IsValid(request.from())) {
        return Error(absl::StatusCode::kInvalidArgument, reason::kStartInvalid,
                     absl::StrCat("`from` is ", static_cast<int>(request.from()),
                                  ": it can be START_FROM_EARLIEST or START_FROM_LATEST"));
      }
      break;
    case v1::EventsRequest::START_NOT_SET:
      break;
  }
  start.position = log.end();
  return start;
}

}  // namespace shardd::server
