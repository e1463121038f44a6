#include "events/consumers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "common/status.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr LogId kLog = {.id = 4711};
constexpr uint64_t kEnd = 1'000'000;

class TestClock final : public Clock {
 public:
  SteadyTime Steady() const override { return {}; }
  WallTime Wall() const override { return wall; }
  WallTime wall{std::chrono::seconds(1'800'000'000)};
};

Cursor At(uint64_t offset) { return {.log = kLog, .offset = offset}; }

ConsumerKey Key(std::string name, uint32_t index = 0, uint32_t count = 1) {
  return {.name = std::move(name), .partition = {.index = index, .count = count}};
}

class ConsumersTest : public ::testing::Test {
 protected:
  ConsumersTest() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "shardd-consumers-XXXXXX").string();
    directory_ = mkdtemp(pattern.data());
    path_ = directory_ + "/consumers";
  }
  ~ConsumersTest() override {
    consumers_.reset();
    std::filesystem::remove_all(directory_);
  }

  absl::Status Open() {
    consumers_.reset();
    auto opened = Consumers::Open({.path = path_, .ttl = 168h, .clock = &clock_});
    if (opened.ok()) consumers_ = *std::move(opened);
    return opened.status();
  }
  // A stream that opens and ends.
  Consumers::Stream Visit(const ConsumerKey& key, uint64_t start = 0) {
    const auto stream = consumers_->OpenStream(key, At(start));
    EXPECT_TRUE(stream.ok()) << stream.status();
    consumers_->CloseStream(key);
    return stream.ok() ? *stream : Consumers::Stream();
  }
  bool Ack(const ConsumerKey& key, uint64_t offset) {
    return consumers_->Ack(key, At(offset), kEnd).ok();
  }
  // Offsets by name and partition.
  std::map<ConsumerKey, uint64_t> Kept() const {
    std::map<ConsumerKey, uint64_t> kept;
    for (const auto& consumer : consumers_->List()) kept[consumer.key] = consumer.kept.offset;
    return kept;
  }
  std::string ReadAll() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void WriteAll(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  }

  TestClock clock_;
  std::string directory_;
  std::string path_;
  std::unique_ptr<Consumers> consumers_;
};

TEST_F(ConsumersTest, ANewFileIsEmptyReservedAndForThisUserAlone) {
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(Kept().empty());
  struct stat file {};
  ASSERT_EQ(stat(path_.c_str(), &file), 0);
  EXPECT_EQ(static_cast<size_t>(file.st_size), Consumers::kFileBytes);
  EXPECT_GE(static_cast<size_t>(file.st_blocks) * 512, Consumers::kFileBytes);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(ConsumersTest, ANewConsumersStartIsKeptAtOnce) {
  ASSERT_TRUE(Open().ok());
  const auto stream = consumers_->OpenStream(Key("bot"), At(7));
  EXPECT_TRUE(stream->is_new);
  EXPECT_EQ(stream->kept, At(7));
  ASSERT_TRUE(Open().ok());
  const auto again = consumers_->OpenStream(Key("bot"), At(99));
  EXPECT_FALSE(again->is_new);
  EXPECT_EQ(again->kept, At(7));
}

TEST_F(ConsumersTest, AnAckMovesForwardsOnly) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("bot"), 10);
  EXPECT_TRUE(Ack(Key("bot"), 20));
  EXPECT_TRUE(Ack(Key("bot"), 15)) << "moves nothing, and is OK";
  EXPECT_EQ(Kept()[Key("bot")], 20u);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Kept()[Key("bot")], 20u);
  EXPECT_EQ(consumers_->Ack(Key("other"), At(1), kEnd).code(), absl::StatusCode::kNotFound);
}

TEST_F(ConsumersTest, AnAckReplacesWhatNoStreamOfThisLogCanGoOnFrom) {
  ASSERT_TRUE(Open().ok());
  const Cursor foreign = {.log = {.id = 1}, .offset = 500};
  ASSERT_TRUE(consumers_->OpenStream(Key("foreign"), foreign).ok());
  EXPECT_TRUE(Ack(Key("foreign"), 3));
  EXPECT_EQ(Kept()[Key("foreign")], 3u);
  Visit(Key("beyond"), kEnd + 1);
  EXPECT_TRUE(Ack(Key("beyond"), 4));
  EXPECT_EQ(Kept()[Key("beyond")], 4u);
}

TEST_F(ConsumersTest, PartitionsOfANameStandForThemselves) {
  ASSERT_TRUE(Open().ok());
  for (uint32_t index = 0; index < 3; ++index) Visit(Key("bot", index, 3), index);
  Visit(Key("bot", 0, 2), 70);
  Ack(Key("bot", 1, 3), 50);
  ASSERT_TRUE(Open().ok());
  const std::map<ConsumerKey, uint64_t> expected = {
      {Key("bot", 0, 2), 70}, {Key("bot", 0, 3), 0}, {Key("bot", 1, 3), 50}, {Key("bot", 2, 3), 2}};
  EXPECT_EQ(Kept(), expected);
}

TEST_F(ConsumersTest, KnowsItsNewestStreamAndWhetherOneIsOpen) {
  ASSERT_TRUE(Open().ok());
  const auto first = consumers_->OpenStream(Key("bot"), At(0));
  const auto second = consumers_->OpenStream(Key("bot"), At(0));
  EXPECT_GT(second->number, first->number);
  EXPECT_EQ(consumers_->newest_stream(Key("bot")), second->number);
  EXPECT_EQ(consumers_->newest_stream(Key("nobody")), 0u);
  EXPECT_TRUE(consumers_->List().front().connected);
  consumers_->CloseStream(Key("bot"));
  EXPECT_TRUE(consumers_->List().front().connected);
  consumers_->CloseStream(Key("bot"));
  EXPECT_FALSE(consumers_->List().front().connected);
}

TEST_F(ConsumersTest, OneThatIsAwayForTooLongIsForgottenAndComesBackWhereItWas) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("bot"), 7);
  clock_.wall += 167h;
  EXPECT_TRUE(Ack(Key("bot"), 8)) << "counts as a sign of life";
  clock_.wall += 167h;
  EXPECT_EQ(Kept().size(), 1u);
  clock_.wall += 1h;
  EXPECT_TRUE(Kept().empty());
  EXPECT_EQ(consumers_->Ack(Key("bot"), At(9), kEnd).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(Kept().empty());
  const auto back = Visit(Key("bot"), 99);
  EXPECT_FALSE(back.is_new);
  EXPECT_EQ(back.kept.offset, 8u);
  EXPECT_EQ(Kept().size(), 1u);
}

TEST_F(ConsumersTest, OneThatIsConnectedIsNotForgotten) {
  ASSERT_TRUE(Open().ok());
  ASSERT_TRUE(consumers_->OpenStream(Key("bot"), At(7)).ok());
  clock_.wall += 400h;
  EXPECT_EQ(Kept().size(), 1u);
  consumers_->KeepConnected();
  ASSERT_TRUE(Open().ok()) << "the process ended without a word";
  EXPECT_EQ(Kept().size(), 1u);
}

TEST_F(ConsumersTest, AClockThatWasAheadKeepsNobodyForEver) {
  clock_.wall += 24h * 3650;
  ASSERT_TRUE(Open().ok());
  Visit(Key("bot"));
  clock_.wall -= 24h * 3650;
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Kept().size(), 1u);
  clock_.wall += 168h;
  EXPECT_TRUE(Kept().empty());
}

TEST_F(ConsumersTest, ThePlaceOfTheFirstToBeForgottenIsTakenWhenAllAreTaken) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("first"));
  clock_.wall += 1s;
  for (size_t i = 1; i < Consumers::kCapacity; ++i) Visit(Key("c" + std::to_string(i)));
  EXPECT_EQ(consumers_->OpenStream(Key("more"), At(0)).status().code(),
            absl::StatusCode::kResourceExhausted);
  clock_.wall += 168h - 1s;
  EXPECT_TRUE(Visit(Key("more"), 5).is_new);
  EXPECT_EQ(Kept().size(), Consumers::kCapacity);
  EXPECT_EQ(consumers_->OpenStream(Key("first"), At(0)).status().code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Kept().size(), Consumers::kCapacity);
  EXPECT_EQ(Kept()[Key("more")], 5u);
}

TEST_F(ConsumersTest, KnowsWhatIsAName) {
  EXPECT_TRUE(IsConsumerName("a"));
  EXPECT_TRUE(IsConsumerName(std::string(100, '~')));
  for (const std::string& name :
       {std::string(), std::string(101, 'a'), std::string("a b"), std::string("\x7f"),
        std::string("\xc3\xa4"), std::string(1, '\0')}) {
    EXPECT_FALSE(IsConsumerName(name)) << name;
  }
}

// ---- Damage ----

TEST_F(ConsumersTest, AnotherFormatIsRefusedAndLeftAsItIs) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("bot"));
  std::string bytes = ReadAll();
  const uint32_t version = 2;
  std::memcpy(bytes.data() + 8, &version, sizeof version);
  const uint32_t crc = Crc32c(bytes.data(), Consumers::kRecordBytes - sizeof(uint32_t));
  std::memcpy(bytes.data() + Consumers::kRecordBytes - sizeof crc, &crc, sizeof crc);
  bytes.resize(bytes.size() - 100);  // also its size
  WriteAll(bytes);
  const absl::Status status = Open();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Message(status)), HasSubstr(path_));
  EXPECT_THAT(std::string(Message(status)), HasSubstr("format 2"));
  EXPECT_EQ(ReadAll(), bytes);
}

TEST_F(ConsumersTest, ADamagedHeaderCostsNoConsumer) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("bot"), 7);
  std::string bytes = ReadAll();
  bytes[3] ^= 1;
  WriteAll(bytes);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(Open().ok());
    EXPECT_EQ(Kept()[Key("bot")], 7u);
  }
}

TEST_F(ConsumersTest, AFileThatIsSomethingElseIsStartedAfresh) {
  std::mt19937_64 random(1);
  std::string bytes(Consumers::kFileBytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  WriteAll(bytes);
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(Kept().empty());
  Visit(Key("bot"), 7);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Kept()[Key("bot")], 7u);
}

TEST_F(ConsumersTest, AFileThatWasCutKeepsWhatIsLeft) {
  ASSERT_TRUE(Open().ok());
  for (int i = 0; i < 10; ++i) Visit(Key("c" + std::to_string(i)), 7);
  const std::string whole = ReadAll();
  for (const size_t size : {size_t{0}, size_t{100}, Consumers::kSlotsOffset,
                            Consumers::kSlotsOffset + 5 * Consumers::kSlotBytes,
                            Consumers::kSlotsOffset + 5 * Consumers::kSlotBytes + 100}) {
    WriteAll(whole.substr(0, size));
    ASSERT_TRUE(Open().ok());
    const size_t left = size < Consumers::kSlotsOffset
                            ? 0
                            : (size - Consumers::kSlotsOffset) / Consumers::kSlotBytes;
    EXPECT_EQ(Kept().size(), left) << size;
    EXPECT_EQ(consumers_->has_lost_some(), size > 0) << "an empty file is a new one";
    EXPECT_EQ(ReadAll().size(), Consumers::kFileBytes);
    ASSERT_TRUE(Open().ok());
    // Half a slot stays damaged until its place is used again.
    const bool cuts_a_slot = size > Consumers::kSlotsOffset &&
                             (size - Consumers::kSlotsOffset) % Consumers::kSlotBytes != 0;
    EXPECT_EQ(consumers_->has_lost_some(), cuts_a_slot) << "is of one process";
  }
}

// Whatever one write is torn to, each consumer has the cursor of before or of after.
TEST_F(ConsumersTest, ATornWriteLeavesTheCursorBeforeIt) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("a"), 1);
  Visit(Key("b"), 1);
  for (uint64_t offset = 2; offset < 6; ++offset) {
    const std::string before = ReadAll();
    ASSERT_TRUE(Ack(Key("a"), offset));
    const std::string after = ReadAll();
    size_t changed = 0;
    while (before[changed] == after[changed]) ++changed;
    const size_t record = changed / Consumers::kRecordBytes * Consumers::kRecordBytes +
                          Consumers::kSlotsOffset % Consumers::kRecordBytes;
    const size_t start = record > changed ? record - Consumers::kRecordBytes : record;
    for (size_t written = 0; written <= Consumers::kRecordBytes; ++written) {
      std::string torn = before;
      torn.replace(start, written, after, start, written);
      WriteAll(torn);
      ASSERT_TRUE(Open().ok());
      const auto kept = Kept();
      ASSERT_EQ(kept.size(), 2u) << written;
      const uint64_t expected = torn == after ? offset : offset - 1;
      ASSERT_EQ(kept.at(Key("a")), expected) << written;
      ASSERT_EQ(kept.at(Key("b")), 1u);
    }
    WriteAll(after);
    ASSERT_TRUE(Open().ok());
  }
}

TEST_F(ConsumersTest, AFlippedBitCostsAtMostTheLastChangeOfOneConsumer) {
  ASSERT_TRUE(Open().ok());
  for (int i = 0; i < 3; ++i) {
    Visit(Key("c" + std::to_string(i)), 10);
    Ack(Key("c" + std::to_string(i)), 20);
  }
  const std::string whole = ReadAll();
  std::mt19937_64 random(1);
  for (int i = 0; i < 500; ++i) {
    std::string damaged = whole;
    const size_t at = Consumers::kSlotsOffset + random() % (3 * Consumers::kSlotBytes);
    damaged[at] ^= static_cast<char>(1 << random() % 8);
    WriteAll(damaged);
    ASSERT_TRUE(Open().ok());
    const auto kept = Kept();
    ASSERT_EQ(kept.size(), 3u);
    ASSERT_FALSE(consumers_->has_lost_some());
    const size_t hit = (at - Consumers::kSlotsOffset) / Consumers::kSlotBytes;
    for (size_t c = 0; c < 3; ++c) {
      const uint64_t offset = kept.at(Key("c" + std::to_string(c)));
      ASSERT_TRUE(offset == 20 || (c == hit && offset == 10));
    }
  }
}

TEST_F(ConsumersTest, AConsumerWhoseSlotIsGoneIsDroppedAlone) {
  ASSERT_TRUE(Open().ok());
  for (int i = 0; i < 3; ++i) Visit(Key("c" + std::to_string(i)), 10);
  std::string bytes = ReadAll();
  std::memset(bytes.data() + Consumers::kSlotsOffset + Consumers::kSlotBytes, 0x55,
              Consumers::kSlotBytes);
  WriteAll(bytes);
  EXPECT_FALSE(consumers_->has_lost_some());
  ASSERT_TRUE(Open().ok());
  EXPECT_TRUE(consumers_->has_lost_some());
  const std::map<ConsumerKey, uint64_t> expected = {{Key("c0"), 10}, {Key("c2"), 10}};
  EXPECT_EQ(Kept(), expected);
  EXPECT_TRUE(Visit(Key("c1"), 3).is_new);
  ASSERT_TRUE(Open().ok());
  EXPECT_EQ(Kept().size(), 3u);
}

// A slot that another consumer took shows its former one again, should the newer copy be damaged:
// that must not put the former one back where it was long ago.
TEST_F(ConsumersTest, ADamagedCopyBringsNoOldCursorBack) {
  ASSERT_TRUE(Open().ok());
  Visit(Key("old"), 1);
  for (size_t i = 1; i < Consumers::kCapacity; ++i) Visit(Key("c" + std::to_string(i)));
  clock_.wall += 168h;
  ASSERT_TRUE(consumers_->OpenStream(Key("new"), At(2)).ok());  // takes the place of `old`
  Visit(Key("old"), 50);                                        // takes another's
  const std::string bytes = ReadAll();
  for (size_t copy = 0; copy < 2; ++copy) {
    std::string damaged = bytes;
    damaged[Consumers::kSlotsOffset + copy * Consumers::kRecordBytes + 20] ^= 1;
    WriteAll(damaged);
    ASSERT_TRUE(Open().ok());
    EXPECT_EQ(Kept().at(Key("old")), 50u);
  }
}

// Random calls, reopened at any moment, against a map.
TEST_F(ConsumersTest, KeepsWhatAModelKeeps) {
  std::mt19937_64 random(7);
  const auto below = [&](uint64_t n) { return random() % n; };
  std::map<ConsumerKey, uint64_t> model;
  ASSERT_TRUE(Open().ok());
  for (int step = 0; step < 5000; ++step) {
    const ConsumerKey key =
        Key("c" + std::to_string(below(30)), static_cast<uint32_t>(below(2)), 2);
    const uint64_t offset = below(1000);
    if (below(3) == 0) {
      ASSERT_EQ(Visit(key, offset).is_new, model.try_emplace(key, offset).second);
    } else {
      ASSERT_EQ(Ack(key, offset), model.contains(key));
      if (model.contains(key)) model[key] = std::max(model[key], offset);
    }
    if (below(50) == 0) {
      ASSERT_TRUE(Open().ok());
    }
    if (below(20) == 0) {
      ASSERT_EQ(Kept(), model);
    }
  }
}

}  // namespace
}  // namespace shardd::events
