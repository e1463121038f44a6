#include "server/events_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/status.h"
#include "server/consumer_request.h"
#include "server/rpc_error.h"

namespace shardd::server {
namespace {

using ::testing::HasSubstr;

// A log with ten events, at offsets 0 to 9.
class EventsRequestTest : public ::testing::Test {
 protected:
  EventsRequestTest() : log_(*events::Log::Open({.retain_bytes = events::kMinRetainBytes})) {
    for (int i = 0; i < 10; ++i) Append(2);
  }

  void Append(size_t data_bytes) {
    events::Round round;
    round.Add({.shard = {}, .type = "TYPING_START", .data = std::string(data_bytes, 'x')});
    log_->Append(round);
  }

  absl::StatusOr<EventsStart> Resolve() const {
    return ResolveEventsRequest(request_, *log_, shard_count_);
  }
  std::string CursorAt(uint64_t offset) const {
    return events::FormatCursor(log_->CursorAt(offset));
  }

  void ExpectRefused(absl::StatusCode code, std::string_view reason, const char* field) {
    const auto start = Resolve();
    EXPECT_EQ(start.status().code(), code) << field;
    EXPECT_EQ(ReasonOf(start.status()), reason) << field;
    EXPECT_THAT(std::string(Message(start.status())), HasSubstr(field));
  }

  std::unique_ptr<events::Log> log_;
  uint32_t shard_count_ = 4;
  v1::EventsRequest request_;
};

TEST_F(EventsRequestTest, StartsAtTheEndWhereNothingIsSaid) {
  EXPECT_EQ(Resolve()->position, 10u);
  request_.set_from(v1::START_FROM_UNSPECIFIED);
  EXPECT_EQ(Resolve()->position, 10u);
  request_.set_from(v1::START_FROM_LATEST);
  EXPECT_EQ(Resolve()->position, 10u);
  EXPECT_FALSE(Resolve()->gap.has_value());
}

TEST_F(EventsRequestTest, StartsAtTheOldestKeptEventForEarliest) {
  request_.set_from(v1::START_FROM_EARLIEST);
  EXPECT_EQ(Resolve()->position, 0u);
  while (log_->oldest() == 0) Append(32 << 10);
  EXPECT_EQ(Resolve()->position, log_->oldest());
  EXPECT_FALSE(Resolve()->gap.has_value());
}

TEST_F(EventsRequestTest, StartsWhereACursorStands) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{4}, uint64_t{10}}) {
    request_.set_cursor(CursorAt(offset));
    const auto start = Resolve();
    ASSERT_TRUE(start.ok()) << start.status();
    EXPECT_EQ(start->position, offset);
    EXPECT_FALSE(start->gap.has_value());
  }
}

TEST_F(EventsRequestTest, StartsAtTheOldestEventWithAGapForACursorOfAnotherLog) {
  events::Cursor foreign = log_->CursorAt(3);
  ++foreign.log.id;
  request_.set_cursor(events::FormatCursor(foreign));
  const auto start = Resolve();
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->position, 0u);
  ASSERT_TRUE(start->gap.has_value());
  EXPECT_EQ(start->gap->reason(), v1::GAP_REASON_OTHER_LOG);
  EXPECT_EQ(start->gap->from(), request_.cursor());
  EXPECT_EQ(start->gap->to(), CursorAt(0));
  EXPECT_FALSE(start->gap->has_lost_events());
  EXPECT_EQ(start->kept_with_gap, foreign);
}

TEST_F(EventsRequestTest, StartsAtTheOldestEventWithAGapForACursorBeyondTheEnd) {
  for (const uint64_t offset : {uint64_t{11}, UINT64_MAX}) {
    request_.set_cursor(CursorAt(offset));
    const auto start = Resolve();
    ASSERT_TRUE(start.ok()) << start.status();
    EXPECT_EQ(start->position, 0u);
    ASSERT_TRUE(start->gap.has_value());
    EXPECT_EQ(start->gap->reason(), v1::GAP_REASON_BEYOND_END);
    EXPECT_EQ(start->kept_with_gap, kLostCursor) << "this log's end will pass the cursor";
    EXPECT_FALSE(start->gap->has_lost_events());
  }
}

TEST_F(EventsRequestTest, RefusesAMalformedCursor) {
  std::string other_alphabet = CursorAt(3);
  other_alphabet[5] = '+';
  for (const std::string& cursor :
       {std::string(), std::string("x"), CursorAt(3) + "A", CursorAt(3).substr(1), other_alphabet,
        std::string(28, '\0'), std::string(1 << 20, 'A')}) {
    request_.set_cursor(cursor);
    ExpectRefused(absl::StatusCode::kInvalidArgument, reason::kCursorMalformed,
                  "EventBatch.cursor");
  }
}

TEST_F(EventsRequestTest, RefusesAnUnknownStart) {
  request_.set_from(static_cast<v1::StartFrom>(17));
  ExpectRefused(absl::StatusCode::kInvalidArgument, reason::kStartInvalid, "17");
}

TEST_F(EventsRequestTest, HasTheDefaultsThatTheProtoStates) {
  const auto start = Resolve();
  EXPECT_EQ(start->limits.max_events, 4096u);
  EXPECT_EQ(start->limits.max_bytes, 64u << 10);
  EXPECT_EQ(start->limits.max_event_bytes, 0u);
  EXPECT_EQ(start->max_delay, std::chrono::milliseconds(0));
}

TEST_F(EventsRequestTest, TakesLimitsUpToTheMostThatTheProtoStates) {
  const auto events = [&](uint32_t n) {
    request_.set_max_batch_events(n);
    return Resolve()->limits.max_events;
  };
  EXPECT_EQ(events(1), 1u);
  EXPECT_EQ(events(4095), 4095u);
  EXPECT_EQ(events(4096), 4096u);
  EXPECT_EQ(events(4097), 4096u);
  EXPECT_EQ(events(UINT32_MAX), 4096u);

  const auto bytes = [&](uint32_t n) {
    request_.set_max_batch_bytes(n);
    return Resolve()->limits.max_bytes;
  };
  constexpr uint32_t kMostBytes = 4 << 20;
  EXPECT_EQ(bytes(1), 1u);
  EXPECT_EQ(bytes(kMostBytes - 1), kMostBytes - 1);
  EXPECT_EQ(bytes(kMostBytes), kMostBytes);
  EXPECT_EQ(bytes(kMostBytes + 1), kMostBytes);
  EXPECT_EQ(bytes(UINT32_MAX), kMostBytes);

  const auto delay = [&](uint32_t n) {
    request_.set_max_delay_ms(n);
    return Resolve()->max_delay.count();
  };
  EXPECT_EQ(delay(9'999), 9'999);
  EXPECT_EQ(delay(10'000), 10'000);
  EXPECT_EQ(delay(10'001), 10'000);
  EXPECT_EQ(delay(UINT32_MAX), 10'000);

  request_.set_max_event_bytes(UINT32_MAX);
  EXPECT_EQ(Resolve()->limits.max_event_bytes, UINT32_MAX);
}

// There a snapshot may decide where the stream goes on.
TEST_F(EventsRequestTest, SaysWhetherItStartsAtTheEnd) {
  EXPECT_TRUE(Resolve()->at_end);
  request_.set_from(v1::START_FROM_LATEST);
  EXPECT_TRUE(Resolve()->at_end);
  request_.set_from(v1::START_FROM_EARLIEST);
  EXPECT_FALSE(Resolve()->at_end);
  request_.set_cursor(CursorAt(10));
  EXPECT_FALSE(Resolve()->at_end);
}

// A filter that is there and says nothing leaves nothing out.
TEST_F(EventsRequestTest, TakesAnEmptyFilter) {
  request_.mutable_filter();
  ASSERT_TRUE(Resolve().ok());
  EXPECT_FALSE(Resolve()->filter.has_value());
  request_.mutable_filter()->set_shard_count(8);
  EXPECT_FALSE(Resolve()->filter.has_value()) << "no shards are named";
  request_.mutable_filter()->mutable_partition()->set_count(1);
  EXPECT_FALSE(Resolve()->filter.has_value()) << "that is all guilds";
}

TEST_F(EventsRequestTest, MeansShardsWithTheCountThatRunsUnlessOneIsGiven) {
  request_.mutable_filter()->add_shard_ids(3);
  EXPECT_EQ(Resolve()->described_filter.shard_count(), 4u);
  request_.mutable_filter()->set_shard_count(8);
  EXPECT_EQ(Resolve()->described_filter.shard_count(), 8u);
  shard_count_ = 0;
  EXPECT_TRUE(Resolve().ok());
  request_.mutable_filter()->set_shard_count(0);
  ExpectRefused(absl::StatusCode::kFailedPrecondition, reason::kNoGeneration, "filter.shard_count");
}

TEST_F(EventsRequestTest, RefusesFiltersThatMakeNoSense) {
  const auto refused = [&](const char* field) {
    ExpectRefused(absl::StatusCode::kInvalidArgument, reason::kFilterInvalid, field);
    request_.Clear();
  };
  for (const std::string& type :
       {std::string(), std::string("message_create"), std::string("A B"), std::string(65, 'A')}) {
    request_.mutable_filter()->add_types(type);
    refused("filter.types");
  }
  request_.mutable_filter()->add_shard_ids(4);
  refused("filter.shard_ids");
  request_.mutable_filter()->set_shard_count(65536);
  refused("filter.shard_count");
  request_.mutable_filter()->mutable_partition();
  refused("partition.count");
  request_.mutable_filter()->mutable_partition()->set_count(65536);
  refused("partition.count");
  request_.mutable_filter()->mutable_partition()->set_count(2);
  request_.mutable_filter()->mutable_partition()->set_index(2);
  refused("partition.index");
  for (int i = 0; i < 10'001; ++i) request_.mutable_filter()->add_types("READY");
  refused("filter.types");
  for (int i = 0; i < 10'001; ++i) request_.mutable_filter()->add_shard_ids(0);
  refused("filter.shard_ids");
  for (int i = 0; i < 10'001; ++i) request_.mutable_filter()->add_guild_ids(1);
  refused("filter.guild_ids");
}

TEST_F(EventsRequestTest, DescribesAFilterByTheFirstOfItsEntries) {
  for (uint64_t i = 0; i < 10'000; ++i) request_.mutable_filter()->add_guild_ids(i);
  const auto start = Resolve();
  ASSERT_TRUE(start.ok());
  EXPECT_EQ(start->described_filter.guild_ids_size(), 100);
}

TEST_F(EventsRequestTest, TakesAConsumerByNameAndPartition) {
  request_.set_consumer("bot");
  const events::ConsumerKey whole = {.name = "bot", .partition = {.index = 0, .count = 1}};
  EXPECT_EQ(Resolve()->consumer, whole);
  EXPECT_FALSE(Resolve()->is_explicit);
  request_.mutable_filter()->mutable_partition()->set_count(3);
  request_.mutable_filter()->mutable_partition()->set_index(2);
  const events::ConsumerKey third = {.name = "bot", .partition = {.index = 2, .count = 3}};
  EXPECT_EQ(Resolve()->consumer, third);
  request_.set_from(v1::START_FROM_LATEST);
  EXPECT_TRUE(Resolve()->is_explicit);
}

TEST_F(EventsRequestTest, RefusesAConsumerWithoutAProperName) {
  for (const std::string& name : {std::string("a b"), std::string("a\n"), std::string(101, 'a'),
                                  std::string("\xc3\xa4"), std::string(1, '\0')}) {
    request_.set_consumer(name);
    ExpectRefused(absl::StatusCode::kInvalidArgument, reason::kConsumerInvalid, "consumer");
  }
  request_.set_consumer("!" + std::string(98, 'a') + "~");
  EXPECT_TRUE(Resolve().ok());
}

TEST_F(EventsRequestTest, AckRefusesWhatItCannotKeep) {
  v1::AckRequest ack;
  const auto refused = [&](std::string_view reason) {
    const auto checked = ResolveAckRequest(ack, *log_);
    EXPECT_EQ(checked.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ReasonOf(checked.status()), reason);
  };
  ack.set_cursor(CursorAt(3));
  refused(reason::kConsumerInvalid);
  ack.set_consumer("bot");
  ack.mutable_partition();
  refused(reason::kFilterInvalid);
  ack.clear_partition();
  ack.set_cursor("x");
  refused(reason::kCursorMalformed);
  ack.set_cursor(CursorAt(11));
  refused(reason::kCursorBeyondEnd);
  events::Cursor foreign = log_->CursorAt(3);
  ++foreign.log.id;
  ack.set_cursor(events::FormatCursor(foreign));
  refused(reason::kCursorForeign);
  ack.set_cursor(CursorAt(10));
  EXPECT_EQ(ResolveAckRequest(ack, *log_)->cursor.offset, 10u);
}

// So that a field added to the proto is either built or refused here.
TEST_F(EventsRequestTest, KnowsEachFieldOfTheRequest) {
  EXPECT_EQ(v1::EventsRequest::descriptor()->field_count(), 9);
  EXPECT_EQ(v1::Filter::descriptor()->field_count(), 5);
}

}  // namespace
}  // namespace shardd::server
