#include "server/consumer_request.h"

#include "absl/strings/str_cat.h"
#include "server/rpc_error.h"

namespace shardd::server {

absl::StatusOr<events::ConsumerKey> ResolveConsumer(const std::string& name,
                                                    const v1::Partition* partition) {
  if (!events::IsConsumerName(name)) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kConsumerInvalid,
                 absl::StrCat("a consumer's name has 1 to ", events::kMaxConsumerNameBytes,
                              " printable characters of ASCII and no blanks"));
  }
  events::ConsumerKey key = {.name = name, .partition = {}};
  if (partition != nullptr) {
    key.partition = {.index = partition->index(), .count = partition->count()};
    if (auto status = events::CheckPartition(key.partition); !status.ok()) {
      return WithReason(status, reason::kFilterInvalid);
    }
  }
  return key;
}

absl::StatusOr<CheckedAck> ResolveAckRequest(const v1::AckRequest& request,
                                             const events::Log& log) {
  auto consumer =
      ResolveConsumer(request.consumer(), request.has_partition() ? &request.partition() : nullptr);
  if (!consumer.ok()) return consumer.status();
  const auto cursor = events::ParseCursor(request.cursor());
  if (!cursor.ok()) return WithReason(cursor.status(), reason::kCursorMalformed);
  if (cursor->log != log.id()) {
    return Error(absl::StatusCode::kInvalidArgument, reason::kCursorForeign,
                 "the cursor is of another log than this server's: acknowledge what a stream of "
                 "this log has brought");
  }
  if (cursor->offset > log.end()) {
    return Error(
        absl::StatusCode::kInvalidArgument, reason::kCursorBeyondEnd,
        "the cursor lies beyond the end of the log, where nothing has been delivered from");
  }
  return CheckedAck{.consumer = *std::move(consumer), .cursor = *cursor};
}

}  // namespace shardd::server
