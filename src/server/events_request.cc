#include "server/events_request.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/shard_id.h"
#include "common/status.h"
#include "server/consumer_request.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

// The bounds that the proto states.
constexpr uint32_t kMaxBatchEvents = 4096;
constexpr uint32_t kDefaultBatchBytes = 64 << 10;
constexpr uint32_t kMaxBatchBytes = 4 << 20;
constexpr uint32_t kMaxDelayMs = 10'000;

// Of each of a filter's lists in Stats, as the proto says.
constexpr int kMaxDescribed = 100;

absl::Status ResolveFilter(const v1::Filter& filter, uint32_t running_shard_count,
                           EventsStart& start) {
  events::FilterSpec spec;
  spec.types.assign(filter.types().begin(), filter.types().end());
  spec.guild_ids.assign(filter.guild_ids().begin(), filter.guild_ids().end());
  spec.shard_ids.assign(filter.shard_ids().begin(), filter.shard_ids().end());
  spec.shard_count = filter.shard_count();
  if (filter.shard_count() > kMaxShardCount) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kFilterInvalid,
                 absl::StrCat("filter.shard_count is ", filter.shard_count(), ", and can be 1 to ",
                              kMaxShardCount, ", or 0"));
  }
  if (!spec.shard_ids.empty() && spec.shard_count == 0) {
    if (running_shard_count == 0) {
      return Error(absl::StatusCode::kFailedPrecondition, reason::kNoGeneration,
                   "filter.shard_ids are meant with a count, and no shards run here yet: set "
                   "filter.shard_count, or call Spawn first");
    }
    spec.shard_count = running_shard_count;
  }
  if (filter.has_partition()) {
    spec.partition = {.index = filter.partition().index(), .count = filter.partition().count()};
  }
  auto made = events::Filter::Make(spec);
  if (!made.ok()) return WithReason(made.status(), reason::kFilterInvalid);
  if (!made->matches_all()) start.filter = *std::move(made);

  v1::Filter& described = start.described_filter;
  for (int i = 0; i < std::min(filter.types_size(), kMaxDescribed); ++i) {
    described.add_types(filter.types(i));
  }
  for (int i = 0; i < std::min(filter.shard_ids_size(), kMaxDescribed); ++i) {
    described.add_shard_ids(filter.shard_ids(i));
  }
  described.set_shard_count(spec.shard_count);
  for (int i = 0; i < std::min(filter.guild_ids_size(), kMaxDescribed); ++i) {
    described.add_guild_ids(filter.guild_ids(i));
  }
  if (filter.has_partition()) *described.mutable_partition() = filter.partition();
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

void StartAt(const events::Cursor& cursor, const std::string& text, const events::Log& log,
             EventsStart& start) {
  start.at_end = false;
  if (cursor == kLostCursor) {
    StartWithGap(v1::GAP_REASON_CONSUMER_LOST, "", log, start);
  } else if (cursor.log != log.id()) {
    StartWithGap(v1::GAP_REASON_OTHER_LOG, text, log, start);
    start.kept_with_gap = cursor;
  } else if (cursor.offset > log.end()) {
    StartWithGap(v1::GAP_REASON_BEYOND_END, text, log, start);
    // The log's end will reach the cursor itself.
    start.kept_with_gap = kLostCursor;
  } else {
    start.position = cursor.offset;
  }
}

absl::StatusOr<EventsStart> ResolveEventsRequest(const v1::EventsRequest& request,
                                                 const events::Log& log,
                                                 uint32_t running_shard_count) {
  EventsStart start;
  if (auto status = ResolveFilter(request.filter(), running_shard_count, start); !status.ok()) {
    return status;
  }
  if (!request.consumer().empty()) {
    auto consumer =
        ResolveConsumer(request.consumer(),
                        request.filter().has_partition() ? &request.filter().partition() : nullptr);
    if (!consumer.ok()) return consumer.status();
    start.consumer = *std::move(consumer);
  }
  start.limits.max_events = request.max_batch_events() == 0
                                ? kMaxBatchEvents
                                : std::min(request.max_batch_events(), kMaxBatchEvents);
  start.limits.max_bytes = request.max_batch_bytes() == 0
                               ? kDefaultBatchBytes
                               : std::min(request.max_batch_bytes(), kMaxBatchBytes);
  start.limits.max_event_bytes = request.max_event_bytes();
  start.max_delay = std::chrono::milliseconds(std::min(request.max_delay_ms(), kMaxDelayMs));

  start.is_explicit = request.start_case() != v1::EventsRequest::START_NOT_SET;
  switch (request.start_case()) {
    case v1::EventsRequest::kCursor: {
      const auto cursor = events::ParseCursor(request.cursor());
      if (!cursor.ok()) return WithReason(cursor.status(), reason::kCursorMalformed);
      StartAt(*cursor, request.cursor(), log, start);
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
  start.at_end = true;
  return start;
}

}  // namespace shardd::server
