// Named consumers: the server keeps where they stand.

#include "events/consumers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "events/crc32c.h"
#include "support/live_server.h"

namespace shardd {
namespace {

using grpc::StatusCode;
using test::EventStream;
using test::Eventually;
using ::testing::Pair;

const std::pair<StatusCode, std::string> kOk = {StatusCode::OK, ""};

v1::EventsRequest Named(const std::string& name) {
  v1::EventsRequest request;
  request.set_consumer(name);
  return request;
}

v1::EventsRequest Worker(const std::string& name, uint32_t index, uint32_t count) {
  v1::EventsRequest request = Named(name);
  request.mutable_filter()->mutable_partition()->set_index(index);
  request.mutable_filter()->mutable_partition()->set_count(count);
  return request;
}

v1::AckRequest AckOf(const std::string& name, const std::string& cursor) {
  v1::AckRequest request;
  request.set_consumer(name);
  request.set_cursor(cursor);
  return request;
}

class NamedConsumersTest : public test::LiveServer {
 protected:
  // What a new stream of the request has first: its cursor where that is without events.
  std::string FirstCursor(const v1::EventsRequest& request) {
    v1::EventsRequest one_by_one = request;
    one_by_one.set_max_batch_events(1);
    auto stream = Open(one_by_one);
    EXPECT_TRUE(HasBegun(*stream));
    return stream->batches().front().cursor();
  }
  // Of Stats; none where it is not listed.
  std::optional<v1::Subscriber> Listed(const std::string& name) {
    const v1::StatsResponse stats = Stats();
    for (const auto& subscriber : stats.subscribers()) {
      if (subscriber.consumer() == name) return subscriber;
    }
    return std::nullopt;
  }
  bool WaitUntilDisconnected(const std::string& name) {
    return Eventually([&] {
      const auto listed = Listed(name);
      return listed.has_value() && !listed->connected();
    });
  }
};

TEST_F(NamedConsumersTest, ANewOneLosesNothingBetweenItsFirstStreamAndItsFirstAck) {
  Start();
  auto first = Open(Named("bot"));
  ASSERT_TRUE(HasBegun(*first));
  first.reset();
  discord_->EmitTraffic(300);
  const uint64_t end = ReadAll().size();
  auto second = Open(Named("bot"));
  ASSERT_TRUE(second->WaitForEvents(300));
  EXPECT_FALSE(second->batches().front().has_gap());
  uint64_t next = second->events().front().offset();
  ASSERT_TRUE(second->WaitForEvents(end - next));
  EXPECT_EQ(end - next, second->events().size());
  for (const auto& event : second->events()) EXPECT_EQ(event.offset(), next++);
}

TEST_F(NamedConsumersTest, AStreamGoesOnBehindWhatWasAcknowledgedAndNoAckGoesBack) {
  Start();
  v1::EventsRequest request = Named("bot");
  request.set_from(v1::START_FROM_EARLIEST);
  request.set_max_batch_events(10);
  auto stream = Open(request);
  ASSERT_TRUE(stream->WaitFor([](const auto& batches) { return batches.size() >= 3; }));
  const auto batches = stream->batches();
  stream.reset();
  EXPECT_EQ(Ack(AckOf("bot", batches[1].cursor())), kOk);
  EXPECT_EQ(Ack(AckOf("bot", batches[0].cursor())), kOk) << "moves nothing";
  auto again = Open(Named("bot"));
  ASSERT_TRUE(again->WaitForEvents(1));
  EXPECT_EQ(again->events().front().offset(), batches[1].events().rbegin()->offset() + 1);
}

TEST_F(NamedConsumersTest, AnExplicitStartWinsAndLeavesWhatIsKept) {
  Start();
  const std::string kept = FirstCursor(Named("bot"));
  discord_->EmitTraffic(50);
  ASSERT_TRUE(Eventually([&] { return Listed("bot")->lag_events() >= 50; }));
  v1::EventsRequest request = Named("bot");
  request.set_from(v1::START_FROM_EARLIEST);
  auto stream = Open(request);
  ASSERT_TRUE(stream->WaitForEvents(1));
  EXPECT_EQ(stream->events().front().offset(), 0u);
  request.set_cursor(stream->cursor());
  stream = Open(request);
  ASSERT_TRUE(HasBegun(*stream));
  EXPECT_GE(Listed("bot")->lag_events(), 50u) << "the kept cursor counts, not the stream's";
}

TEST_F(NamedConsumersTest, AckRefusesWhatItCannotKeep) {
  Start();
  const std::string cursor = FirstCursor(Named("bot"));
  EXPECT_THAT(Ack(AckOf("other", cursor)), Pair(StatusCode::NOT_FOUND, "CONSUMER_NOT_FOUND"));
  EXPECT_THAT(Ack(AckOf("", cursor)), Pair(StatusCode::INVALID_ARGUMENT, "CONSUMER_INVALID"));
  EXPECT_THAT(Ack(AckOf("a b", cursor)), Pair(StatusCode::INVALID_ARGUMENT, "CONSUMER_INVALID"));
  EXPECT_THAT(Ack(AckOf("bot", "x")), Pair(StatusCode::INVALID_ARGUMENT, "CURSOR_MALFORMED"));
  v1::AckRequest of_a_worker = AckOf("bot", cursor);
  of_a_worker.mutable_partition()->set_count(2);
  EXPECT_THAT(Ack(of_a_worker), Pair(StatusCode::NOT_FOUND, "CONSUMER_NOT_FOUND"));
  of_a_worker.mutable_partition()->set_index(2);
  EXPECT_THAT(Ack(of_a_worker), Pair(StatusCode::INVALID_ARGUMENT, "FILTER_INVALID"));
  v1::AckRequest whole = AckOf("bot", cursor);
  whole.mutable_partition()->set_count(1);
  EXPECT_EQ(Ack(whole), kOk) << "0 of 1 is no partition";
  EXPECT_THAT(Refusal(Named("a b")), Pair(StatusCode::INVALID_ARGUMENT, "CONSUMER_INVALID"));
}

TEST_F(NamedConsumersTest, TheNewerStreamTakesOverFromTheOlderOfItsPartitionAlone) {
  Start();
  auto older = Open(Worker("bot", 0, 2));
  auto neighbour = Open(Worker("bot", 1, 2));
  auto nameless = Open(v1::EventsRequest());
  ASSERT_TRUE(HasBegun(*older) && HasBegun(*neighbour) && HasBegun(*nameless));
  auto newer = Open(Worker("bot", 0, 2));
  ASSERT_TRUE(HasBegun(*newer));
  const grpc::Status status = older->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::ABORTED);
  EXPECT_EQ(older->reason(), "CONSUMER_TAKEN_OVER");
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("bot"));
  discord_->EmitTraffic(200);
  EXPECT_TRUE(newer->WaitForEvents(50));
  EXPECT_TRUE(neighbour->WaitForEvents(50));
  EXPECT_TRUE(nameless->WaitForEvents(200));
}

TEST_F(NamedConsumersTest, OfManyStreamsThatOpenAtOnceOneStays) {
  Start();
  std::vector<std::unique_ptr<EventStream>> streams;
  for (int i = 0; i < 20; ++i) streams.push_back(Open(Named("bot")));
  EXPECT_TRUE(Eventually([&] {
    int connected = 0;
    const v1::StatsResponse stats = Stats();
    for (const auto& subscriber : stats.subscribers()) connected += subscriber.connected();
    return connected == 1;
  }));
  discord_->EmitTraffic(100);
  EXPECT_TRUE(Eventually([&] {
    return std::ranges::any_of(streams, [](auto& s) { return s->events().size() >= 100; });
  }));
}

TEST_F(NamedConsumersTest, AStreamWhoseClientDoesNotReadIsTakenOverToo) {
  Start();
  grpc::ClientContext context;
  v1::EventsRequest request = Named("bot");
  request.set_from(v1::START_FROM_EARLIEST);
  auto stalled = stub_->Events(&context, request);
  for (int i = 0; i < 20; ++i) discord_->EmitTraffic(1000);
  ASSERT_TRUE(Eventually([&] { return Stats().log().events() > 20'000; }));
  auto newer = Open(Named("bot"));
  ASSERT_TRUE(HasBegun(*newer));
  EXPECT_TRUE(Eventually([&] { return Stats().subscribers_size() == 1; }));
  EXPECT_TRUE(Listed("bot")->connected());
  // Once it reads again it hears of it, long before the end of what it was sent.
  v1::EventBatch batch;
  size_t events = 0;
  while (stalled->Read(&batch)) events += static_cast<size_t>(batch.events_size());
  EXPECT_LT(events, 20'000u);
  EXPECT_EQ(stalled->Finish().error_code(), StatusCode::ABORTED);
  EXPECT_EQ(test::ReasonOf(context), "CONSUMER_TAKEN_OVER");
}

TEST_F(NamedConsumersTest, StatsListsThemAlsoWhileTheyAreAwayWithTheirLag) {
  Start();
  auto worker = Open(Worker("bot", 1, 2));
  ASSERT_TRUE(HasBegun(*worker));
  auto listed = Listed("bot");
  ASSERT_TRUE(listed.has_value());
  EXPECT_TRUE(listed->connected());
  EXPECT_EQ(listed->filter().partition().count(), 2u);
  EXPECT_NE(listed->peer(), "");
  worker.reset();
  ASSERT_TRUE(WaitUntilDisconnected("bot"));
  discord_->EmitTraffic(100);
  ASSERT_TRUE(Eventually([&] { return Listed("bot")->lag_events() >= 100; }));
  listed = Listed("bot");
  EXPECT_EQ(listed->filter().partition().index(), 1u);
  EXPECT_GT(listed->lag().seconds() * 1'000'000'000 + listed->lag().nanos(), 0);
  v1::AckRequest ack = AckOf("bot", Stats().log().newest_cursor());
  ack.mutable_partition()->set_index(1);
  ack.mutable_partition()->set_count(2);
  EXPECT_EQ(Ack(ack), kOk);
  EXPECT_EQ(Listed("bot")->lag_events(), 0u);
}

TEST_F(NamedConsumersTest, OneThatStaysAwayIsForgottenAndGoesOnWhereItWas) {
  Start({"--consumer-ttl", "1s"});
  const std::string cursor = FirstCursor(Named("bot"));
  discord_->EmitTraffic(100);
  ASSERT_TRUE(Eventually([&] { return !Listed("bot").has_value(); }));
  EXPECT_THAT(Ack(AckOf("bot", cursor)), Pair(StatusCode::NOT_FOUND, "CONSUMER_NOT_FOUND"));
  auto back = Open(Named("bot"));
  ASSERT_TRUE(back->WaitForEvents(100));
  EXPECT_TRUE(Listed("bot").has_value());
}

TEST_F(NamedConsumersTest, TheyOutliveTheProcess) {
  Start();
  const std::string cursor = FirstCursor(Named("bot"));
  EXPECT_EQ(Ack(AckOf("bot", cursor)), kOk);
  Kill();
  Start();
  EXPECT_TRUE(Listed("bot").has_value());
  EXPECT_FALSE(Listed("bot")->connected());
  auto stream = Open(Named("bot"));
  ASSERT_TRUE(stream->WaitForEvents(1));
  EXPECT_FALSE(stream->batches().front().has_gap());
  v1::EventsRequest request;
  request.set_cursor(cursor);
  auto beside = Open(request);
  ASSERT_TRUE(beside->WaitForEvents(1));
  EXPECT_EQ(stream->events().front().offset(), beside->events().front().offset());
  EXPECT_EQ(Ack(AckOf("bot", stream->cursor())), kOk);
}

TEST_F(NamedConsumersTest, AnotherFormatOfTheirFileEndsTheStartWith2) {
  Start();
  Kill();
  {
    std::fstream file(data_dir_ + "/consumers", std::ios::in | std::ios::out | std::ios::binary);
    std::string header(events::Consumers::kRecordBytes, '\0');
    file.read(header.data(), static_cast<std::streamsize>(header.size()));
    header[8] = 2;
    const uint32_t crc = events::Crc32c(header.data(), header.size() - sizeof(uint32_t));
    std::memcpy(header.data() + header.size() - sizeof crc, &crc, sizeof crc);
    file.seekp(0).write(header.data(), static_cast<std::streamsize>(header.size()));
  }
  test::ShardDProcess process({"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                               "--admin-listen", "off", "--data-dir", data_dir_},
                              test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
  EXPECT_EQ(process.WaitForExit(), 2);
  EXPECT_THAT(process.err(), ::testing::HasSubstr(data_dir_ + "/consumers"));
}

// A cursor of another log.
std::string ForeignCursor() { return events::FormatCursor({.log = {.id = 4711}, .offset = 3}); }

TEST_F(NamedConsumersTest, OneWhoseCursorMayHaveBeenCutOffStartsWithAGapUntilItAcknowledges) {
  Start();
  const std::string cursor = FirstCursor(Named("bot"));
  EXPECT_EQ(Ack(AckOf("bot", cursor)), kOk);
  Kill();
  std::filesystem::resize_file(data_dir_ + "/consumers", events::Consumers::kSlotsOffset);
  Start();
  EXPECT_TRUE(server_->WaitForLog("named consumers has been cut"));
  for (int i = 0; i < 2; ++i) {
    auto stream = Open(Named("bot"));
    ASSERT_TRUE(stream->WaitForEvents(1));
    const v1::EventBatch first = stream->batches().front();
    EXPECT_EQ(first.gap().reason(), v1::GAP_REASON_CONSUMER_LOST);
    EXPECT_EQ(first.gap().from(), "");
    EXPECT_FALSE(first.gap().has_lost_events());
    EXPECT_EQ(first.events(0).offset(), 0u);
    if (i == 1) {
      EXPECT_EQ(Ack(AckOf("bot", first.cursor())), kOk);
    }
  }
  discord_->EmitTraffic(1);
  auto stream = Open(Named("bot"));
  ASSERT_TRUE(HasBegun(*stream));
  EXPECT_FALSE(stream->batches().front().has_gap());
  v1::EventsRequest latest = Named("other");
  latest.set_from(v1::START_FROM_LATEST);
  stream = Open(latest);
  ASSERT_TRUE(HasBegun(*stream));
  EXPECT_FALSE(stream->batches().front().has_gap()) << "asked for";
}

TEST_F(NamedConsumersTest, ANewOneWithACursorOfAnotherLogHearsOfTheGapUntilItAcknowledges) {
  Start();
  v1::EventsRequest request = Named("bot");
  request.set_cursor(ForeignCursor());
  auto stream = Open(request);
  ASSERT_TRUE(HasBegun(*stream));
  stream = Open(Named("bot"));
  ASSERT_TRUE(HasBegun(*stream));
  const v1::EventBatch first = stream->batches().front();
  EXPECT_EQ(first.gap().reason(), v1::GAP_REASON_OTHER_LOG);
  EXPECT_EQ(first.gap().from(), ForeignCursor());
  EXPECT_EQ(Ack(AckOf("bot", first.cursor())), kOk);
  stream = Open(Named("bot"));
  ASSERT_TRUE(HasBegun(*stream));
  EXPECT_FALSE(stream->batches().front().has_gap());
}

TEST_F(NamedConsumersTest, ASnapshotsFirstBatchHasTheGapOfACursorOfAnotherLog) {
  Start();
  v1::EventsRequest request;
  request.set_snapshot(true);
  request.set_cursor(ForeignCursor());
  request.set_max_batch_events(1);
  auto stream = Open(request);
  ASSERT_TRUE(stream->WaitForEvents(3));
  const auto batches = stream->batches();
  ASSERT_TRUE(batches.front().events(0).snapshot());
  EXPECT_EQ(batches.front().gap().reason(), v1::GAP_REASON_OTHER_LOG);
  for (size_t i = 1; i < batches.size(); ++i) EXPECT_FALSE(batches[i].has_gap());
}

// ---- The end of what is kept ----

TEST_F(NamedConsumersTest, OneThatIsAboutToLoseEventsIsWarnedAboutAndThenGetsTheExactGap) {
  Start({"--retain-bytes", "8MiB", "--max-message-bytes", "1MiB"});
  const std::string cursor = FirstCursor(Named("bot"));
  v1::EventsRequest request;
  request.set_cursor(cursor);
  auto beside = Open(request);
  discord_->SetRate(1500);
  ASSERT_TRUE(beside->WaitForEvents(1));
  const uint64_t kept = beside->events().front().offset();
  ASSERT_TRUE(server_->WaitForLog("a named consumer is close to the end", std::chrono::seconds(30)))
      << server_->err();
  EXPECT_EQ(server_->err().find("kept cursor has left the log"), std::string::npos);
  EXPECT_TRUE(Stats().log().has_retention_at_present_rate());
  ASSERT_TRUE(server_->WaitForLog("kept cursor has left the log", std::chrono::seconds(60)));
  discord_->SetRate(0);
  auto back = Open(Named("bot"));
  ASSERT_TRUE(back->WaitForEvents(1));
  const v1::EventBatch first = back->batches().front();
  ASSERT_TRUE(first.has_gap());
  EXPECT_EQ(first.gap().reason(), v1::GAP_REASON_NOT_RETAINED);
  EXPECT_EQ(first.gap().from(), cursor);
  EXPECT_TRUE(server_->WaitForLog("does not get all that it stood before"));
  EXPECT_EQ(kept + first.gap().lost_events(), first.events(0).offset());
}

}  // namespace
}  // namespace shardd
