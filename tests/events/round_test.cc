#include "events/round.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "events/crc32c.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::events {
namespace {

NewEvent Message(std::string_view data) {
  return {.shard = {.id = 3, .count = 16},
          .session = 2,
          .sequence = 4711,
          .guild_id = 197038439483310086,
          .received_unix_nanos = 1700000000123456789,
          .type = "MESSAGE_CREATE",
          .data = data};
}

std::string_view Bytes(const Round& round) {
  return {reinterpret_cast<const char*>(round.data()), round.bytes()};
}

TEST(RoundTest, EncodesWhatTheContractSays) {
  Round round;
  round.Add(Message(R"({"content":"hi"})"));
  round.Add(Message("{}"));

  v1::EventBatch batch;
  ASSERT_TRUE(batch.ParseFromArray(round.data(), static_cast<int>(round.bytes())));
  ASSERT_EQ(batch.events_size(), 2);
  const v1::Event& event = batch.events(0);
  EXPECT_EQ(event.shard_id(), 3u);
  EXPECT_EQ(event.shard_count(), 16u);
  EXPECT_EQ(event.session(), 2u);
  EXPECT_EQ(event.sequence(), 4711u);
  EXPECT_EQ(event.guild_id(), 197038439483310086u);
  EXPECT_EQ(event.received_unix_nanos(), 1700000000123456789);
  EXPECT_EQ(event.type(), "MESSAGE_CREATE");
  EXPECT_EQ(event.data(), R"({"content":"hi"})");
  EXPECT_EQ(event.data_bytes(), 16u);
  EXPECT_EQ(batch.events(1).data(), "{}");
}

TEST(RoundTest, EntriesPointAtTheRecords) {
  Round round;
  const std::string large(300'000, 'x');
  round.Add(Message("{}"));
  round.Add(Message(large));
  const IndexEntry& entry = round.entries()[1];
  EXPECT_EQ(entry.position, round.entries()[0].length);
  EXPECT_EQ(entry.position + entry.length, round.bytes());
  EXPECT_EQ(entry.data_size(), large.size());
  EXPECT_EQ(Bytes(round).substr(entry.position + entry.data_position, large.size()), large);
  EXPECT_EQ(entry.type_hash, TypeHash("MESSAGE_CREATE"));
  EXPECT_EQ(entry.shard_id, 3);
  EXPECT_EQ(entry.sequence, 4711u);

  const uint8_t* record = round.data() + entry.position;
  EXPECT_EQ(entry.data_crc, Crc32c(large.data(), large.size()));
  const std::string_view text(reinterpret_cast<const char*>(record), entry.length);
  EXPECT_TRUE(IsWholeRecord(text, entry));
  for (size_t i = 0; i < 100; ++i) {
    std::string flipped(text);
    flipped[i] = static_cast<char>(flipped[i] ^ 4);
    EXPECT_FALSE(IsWholeRecord(flipped, entry)) << i;
  }
}

TEST(RoundTest, OffsetStandsWhereItIsSaidTo) {
  for (const size_t size : {0u, 1u, 100u, 127u, 128u, 20'000u, 3'000'000u}) {
    Round round;
    round.Add(Message(std::string(size, 'x')));
    std::string bytes(Bytes(round));
    const uint64_t offset = 0x0102030405060708;
    std::memcpy(bytes.data() + OffsetPosition(round.data(), round.bytes()), &offset, sizeof offset);
    v1::EventBatch batch;
    ASSERT_TRUE(batch.ParseFromString(bytes)) << size;
    EXPECT_EQ(batch.events(0).offset(), offset) << size;
    EXPECT_EQ(batch.events(0).data().size(), size);
  }
}

TEST(RoundTest, WithoutDataKeepsAllTheRest) {
  for (const size_t size : {1u, 127u, 128u, 70'000u}) {
    Round round;
    round.Add(Message("{}"));
    round.Add(Message(std::string(size, 'x')));
    const IndexEntry& entry = round.entries()[1];
    const std::string stripped =
        WithoutData(Bytes(round).substr(entry.position, entry.length), entry);
    v1::EventBatch whole, batch;
    ASSERT_TRUE(whole.ParseFromArray(round.data(), static_cast<int>(round.bytes())));
    ASSERT_TRUE(batch.ParseFromString(stripped)) << size;
    ASSERT_EQ(batch.events_size(), 1);
    EXPECT_EQ(batch.events(0).data(), "");
    EXPECT_EQ(batch.events(0).data_bytes(), size);
    v1::Event expected = whole.events(1);
    expected.clear_data();
    EXPECT_EQ(batch.events(0).SerializeAsString(), expected.SerializeAsString());
  }
}

TEST(RoundTest, AnAsideIsARecordThatIsCommittedWithWhatFollows) {
  Round round;
  round.AddAside(Message("{}"));
  round.Add(Message("{}"));
  EXPECT_TRUE(round.has_rescale());
  const IndexEntry& aside = round.entries()[0];
  EXPECT_TRUE(aside.is_aside());
  EXPECT_EQ(aside.flags, kWithNext);
  EXPECT_TRUE(IsWholeRecord(Bytes(round).substr(0, aside.length), aside));
  EXPECT_EQ(round.entries()[1].flags, 0);
  round.Clear();
  EXPECT_FALSE(round.has_rescale());
}

TEST(RoundTest, CommitTogetherTiesAllButTheLast) {
  Round round;
  round.CommitTogether();
  for (int i = 0; i < 3; ++i) round.Add(Message("{}"));
  round.CommitTogether();
  EXPECT_EQ(round.entries()[0].flags, kWithNext);
  EXPECT_EQ(round.entries()[1].flags, kWithNext);
  EXPECT_EQ(round.entries()[2].flags, 0);
  EXPECT_EQ(round.log_bytes(), round.bytes() + 3 * sizeof(IndexEntry));
}

TEST(RoundTest, ClearStartsOver) {
  Round round;
  round.Add(Message(std::string(10'000'000, 'x')));
  round.Clear();
  EXPECT_TRUE(round.empty());
  EXPECT_EQ(round.bytes(), 0u);
  round.Add(Message("{}"));
  EXPECT_EQ(round.entries().size(), 1u);
  EXPECT_EQ(round.entries()[0].position, 0u);
}

}  // namespace
}  // namespace shardd::events
