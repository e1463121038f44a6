#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>

#include "common/status.h"
#include "events/crc32c.h"
#include "events/filtered_read.h"
#include "events/log.h"
#include "events/log_file.h"
#include "shardd/v1/shardd.pb.h"
#include "support/temp_dir.h"

namespace shardd::events {
namespace {

using ::testing::HasSubstr;

constexpr ShardId kShard{.id = 0, .count = 1};

// What the event with this sequence has as its data: anybody can tell.
std::string DataOf(uint64_t sequence) {
  return "{\"n\":" + std::to_string(sequence) +
         std::string(sequence * 7919 % (sequence % 50 == 0 ? 20'000 : 1'500), 'x') + "}";
}

NewEvent Event(uint64_t sequence, std::string_view data, uint32_t session = 1) {
  return {.shard = kShard,
          .session = session,
          .sequence = sequence,
          .guild_id = sequence % 7,
          .received_unix_nanos = static_cast<int64_t>(sequence),
          .type = "MESSAGE_CREATE",
          .data = data};
}

void Add(uint64_t sequence, Round* round, uint32_t session = 1) {
  const std::string data = DataOf(sequence);
  round->Add(Event(sequence, data, session));
}

std::string FileOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// What a reader that starts at 0 finds. Every event is checked to be what was appended.
struct Reading {
  std::vector<uint64_t> sequences;
  uint64_t missing = 0;  // events that a gap counts
  bool unknown = false;  // a gap that counts nothing
  uint64_t next = 0;
};
Reading ReadAll(const Log& log) {
  Reading reading;
  while (reading.next < log.end()) {
    const Run run = log.Read(reading.next, {});
    if (run.first > reading.next) {
      EXPECT_TRUE(run.missing.has_value()) << "skipped in silence at " << reading.next;
      if (run.missing && run.missing->events) reading.missing += *run.missing->events;
      if (run.missing && !run.missing->events) reading.unknown = true;
    }
    EXPECT_GT(run.next, reading.next);
    if (run.next <= reading.next) break;
    v1::EventBatch batch;
    EXPECT_TRUE(batch.ParseFromArray(run.bytes().data(), static_cast<int>(run.bytes().size())));
    uint64_t offset = run.first;
    for (const v1::Event& event : batch.events()) {
      EXPECT_EQ(event.offset(), offset++);
      EXPECT_TRUE(event.data() == DataOf(event.sequence()))
          << event.sequence() << " at " << event.offset();
      reading.sequences.push_back(event.sequence());
    }
    EXPECT_EQ(offset, run.next);
    reading.next = run.next;
  }
  return reading;
}

class LogRecoveryTest : public ::testing::Test {
 protected:
  void Open(uint64_t retain_bytes = kMinRetainBytes) {
    log_.reset();
    auto opened = Log::Open({.dir = dir_.path(), .retain_bytes = retain_bytes});
    ASSERT_TRUE(opened.ok()) << opened.status();
    log_ = *std::move(opened);
  }
  void Append(int events) {
    Round round;
    for (int i = 0; i < events; ++i) shardd::events::Add(++sequence_, &round);
    log_->Append(round);
  }
  void OpenSession(uint32_t number, const std::string& id) {
    Round round;
    round.Add(SessionOpened{
        .shard = kShard, .session = number, .id = id, .resume_url = "wss://r", .intents = 5});
    sequence_ = 1;
    shardd::events::Add(1, &round, number);
    log_->Append(round);
  }
  std::string path() const { return dir_ / "log"; }

  test::TempDir dir_;
  std::unique_ptr<Log> log_;
  uint64_t sequence_ = 0;
};

TEST_F(LogRecoveryTest, GoesOnWhereItWasLeft) {
  Open();
  Append(20);
  const LogId id = log_->id();
  Open();
  EXPECT_EQ(log_->id(), id);
  EXPECT_EQ(log_->end(), 20u);
  Append(5);
  const Reading reading = ReadAll(*log_);
  EXPECT_EQ(reading.sequences.size(), 25u);
  EXPECT_EQ(reading.missing, 0u);
  EXPECT_FALSE(reading.unknown);
}

TEST_F(LogRecoveryTest, GoesOnAfterManyRoundsOfTheRing) {
  Open();
  for (int life = 0; life < 10; ++life) {
    for (int i = 0; i < 200; ++i) Append(5);
    Open();
    ASSERT_EQ(log_->end(), sequence_);
    const Reading reading = ReadAll(*log_);
    EXPECT_EQ(reading.missing + reading.sequences.size(), sequence_);
    EXPECT_EQ(reading.sequences.back(), sequence_);
    EXPECT_GT(log_->GetStats().bytes, kMinRetainBytes / 2);
  }
}

TEST_F(LogRecoveryTest, KnowsTheSessionsAndTheirLastSequence) {
  Open();
  Round round;
  round.Add(GenerationBegun{.generation = 3, .shard_count = 1});
  round.Add(GatewayKnown{.api_url = "http://api", .gateway_url = "ws://gateway"});
  round.Add(ShardWanted{.shard = kShard, .wanted = true});
  log_->Append(round);
  OpenSession(1, "first");
  Append(10);
  // Far more than is kept, so that READY and the session's beginning are long gone.
  for (int i = 0; i < 400; ++i) Append(10);
  Open();
  const State& state = log_->state_at_open();
  EXPECT_EQ(state.generation, 3u);
  EXPECT_EQ(state.shard_count, 1u);
  EXPECT_EQ(state.api_url, "http://api");
  EXPECT_EQ(state.gateway_url, "ws://gateway");
  const ShardRecord expected{
      .wanted = true,
      .last_session = 1,
      .session = SessionRecord{.id = "first",
                               .resume_url = "wss://r",
                               .intents = 5,
                               .last_sequence = sequence_,
                               .last_event_unix_nanos = static_cast<int64_t>(sequence_)}};
  EXPECT_EQ(state.shards.at(kShard), expected);
  EXPECT_EQ(log_->state(), state);
}

TEST_F(LogRecoveryTest, AnEndedSessionIsNotResumedAndANewOneCountsFromItsOwnBeginning) {
  Open();
  OpenSession(1, "first");
  Append(100);
  Round round;
  round.Add(SessionEnded{.shard = kShard, .session = 1});
  log_->Append(round);
  EXPECT_FALSE(log_->state().shards.at(kShard).session.has_value());
  EXPECT_EQ(log_->state().shards.at(kShard).last_session, 1u);
  OpenSession(2, "second");
  Open();
  EXPECT_EQ(log_->state_at_open().shards.at(kShard).session->id, "second");
  EXPECT_EQ(log_->state_at_open().shards.at(kShard).session->last_sequence, 1u);
  round.Add(SequencePassed{.shard = kShard, .session = 2, .sequence = 9});
  round.Add(SequencePassed{.shard = kShard, .session = 1, .sequence = 99});
  log_->Append(round);
  Open();
  EXPECT_EQ(log_->state_at_open().shards.at(kShard).session->last_sequence, 9u);
}

TEST_F(LogRecoveryTest, KnowsHowFarARescaleHasCome) {
  Open();
  Round round;
  round.Add(GenerationBegun{.generation = 1, .shard_count = 1});
  round.Add(SessionNumbered{.session = 5});
  round.Add(RescaleChanged{{.from_shard_count = 1, .to_shard_count = 2, .reason = "asked for"}});
  CopiesExpected expected;
  for (uint64_t i = 0; i < 100; ++i) {
    expected.copies.push_back(
        {.key = {.guild_id = i % 7, .high = i}, .unix_nanos = static_cast<int64_t>(i)});
  }
  round.Add(expected);
  log_->Append(round);
  OpenSession(1, "first");
  State state = log_->state();
  EXPECT_EQ(CountCopies(state), 100u);
  const CopyCame came{
      .shard = kShard, .session = 1, .sequence = 2, .key = {.guild_id = 3, .high = 3}};
  Apply(came, &state);
  round.Add(came);
  log_->Append(round);
  Open();
  EXPECT_EQ(log_->state_at_open(), state);
  // Until what was written of it is long gone.
  sequence_ = 2;
  for (int i = 0; i < 400; ++i) Append(10);
  Open();
  EXPECT_EQ(log_->state_at_open().copies, state.copies);
  EXPECT_EQ(log_->state_at_open().rescale, state.rescale);
  EXPECT_EQ(log_->state_at_open().session_floor, 5u);
}

TEST_F(LogRecoveryTest, EventsOfAGenerationThatIsNotInChargeMakeNoShards) {
  Open();
  Round round;
  round.Add(GenerationBegun{.generation = 1, .shard_count = 1});
  log_->Append(round);
  OpenSession(1, "first");
  NewEvent early = Event(4711, "{}", /*session=*/8);
  early.shard = {.id = 1, .count = 2};
  round.Add(early);
  log_->Append(round);
  const State state = log_->state();
  EXPECT_EQ(state.shards.size(), 1u);
  EXPECT_EQ(state.session_floor, 8u);
  EXPECT_EQ(state.shards.at(kShard).session->last_sequence, 1u);
  Open();
  EXPECT_EQ(log_->state_at_open(), state);
}

TEST_F(LogRecoveryTest, ADamagedBeginningMakesNoCopyExpectedTwice) {
  Open();
  OpenSession(1, "first");
  for (int i = 0; i < 60; ++i) Append(1);
  Round round;
  round.Add(CopiesExpected{{{.key = {.guild_id = 1}, .unix_nanos = 5}}});
  log_->Append(round);
  log_.reset();
  std::string bytes = FileOf(path());
  std::fill_n(bytes.begin() + 4096 + 2 * 65536 - 128, 128, '\0');
  WriteFile(path(), bytes);
  Open();
  EXPECT_EQ(CountCopies(log_->state_at_open()), 1u);
  EXPECT_EQ(log_->state(), log_->state_at_open());
  Append(1);
  EXPECT_EQ(CountCopies(log_->state()), 1u);
}

TEST_F(LogRecoveryTest, ASmallerSizeKeepsTheNewestOfTheCopiesThatAreExpected) {
  Open(8 * kMinRetainBytes);
  CopiesExpected expected;
  for (uint64_t i = 0; i < MaxExpectedCopies(8 * kMinRetainBytes); ++i) {
    expected.copies.push_back({.key = {.high = i}, .unix_nanos = static_cast<int64_t>(i)});
  }
  Round round;
  round.Add(expected);
  log_->Append(round);
  Append(3);
  Open(kMinRetainBytes);
  EXPECT_EQ(CountCopies(log_->state_at_open()), MaxExpectedCopies(kMinRetainBytes));
  EXPECT_TRUE(log_->state_at_open().copies.contains({.high = expected.copies.size() - 1}));
  EXPECT_EQ(log_->state(), log_->state_at_open());
  // As large as an event can be beside them.
  const std::string data(LargestData(kMinRetainBytes), 'x');
  for (int i = 0; i < 5; ++i) {
    round.Add(Event(++sequence_, data));
    log_->Append(round);
  }
  EXPECT_EQ(log_->state().copies, log_->state_at_open().copies);
}

TEST_F(LogRecoveryTest, ReadersDoNotSeeWhatIsKeptOfTheShards) {
  Open();
  for (int i = 0; i < 500; ++i) {
    Append(i % 3);
    Round round;
    for (int j = 0; j < i % 4; ++j) round.Add(ShardWanted{.shard = kShard, .wanted = j % 2 == 0});
    log_->Append(round);
  }
  const Reading reading = ReadAll(*log_);
  EXPECT_EQ(reading.missing + reading.sequences.size(), sequence_);
  uint64_t events = 0;
  for (uint64_t at = log_->oldest(); at < log_->end();) {
    const View view = log_->Look(at);
    for (uint32_t i = 0; i < view.size(); ++i) events += view.entry(i).is_event() ? 1 : 0;
    at = view.next();
  }
  EXPECT_EQ(events, reading.sequences.size());
}

TEST_F(LogRecoveryTest, AnotherSizeKeepsWhatFits) {
  Open(4 * kMinRetainBytes);
  OpenSession(1, "first");
  for (int i = 0; i < 600; ++i) Append(5);
  const LogId id = log_->id();
  for (const uint64_t size : {uint64_t{8}, uint64_t{1}, uint64_t{2}}) {
    const uint64_t events = log_->GetStats().events;
    Open(size * kMinRetainBytes);
    EXPECT_EQ(log_->id(), id);
    EXPECT_EQ(log_->end(), sequence_);
    const Reading reading = ReadAll(*log_);
    EXPECT_EQ(reading.missing + reading.sequences.size(), sequence_);
    if (size == 8) {
      EXPECT_EQ(reading.sequences.size(), events);
    }
    EXPECT_GT(reading.sequences.size(), size == 1 ? 300u : 100u);
    EXPECT_EQ(log_->state_at_open().shards.at(kShard).session->last_sequence, sequence_);
    Append(1);
    EXPECT_EQ(log_->state().shards.at(kShard).session->last_sequence, sequence_);
  }
}

TEST_F(LogRecoveryTest, SaysHowMuchSpaceIsMissing) {
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit limit = before;
  limit.rlim_cur = 4 << 20;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &limit);
  const auto opened = Log::Open({.dir = dir_.path(), .retain_bytes = 64 << 20});
  setrlimit(RLIMIT_FSIZE, &before);
  ASSERT_EQ(opened.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Message(opened.status())), HasSubstr("it takes 69 MiB"));
  EXPECT_NE(access(path().c_str(), F_OK), 0);
  EXPECT_NE(access((path() + ".new").c_str(), F_OK), 0);
}

TEST_F(LogRecoveryTest, LeavesAFileOfAnotherFormatAlone) {
  Open();
  Append(3);
  log_.reset();
  std::string bytes = FileOf(path());
  // As the version behind this one would write it.
  bytes[8] = 2;
  std::string page = bytes.substr(0, 4096);
  std::fill_n(page.begin() + 12, 4, '\0');
  for (size_t size = 16; size <= 256; size += 4) {
    const uint32_t crc = Crc32c(page.data(), size);
    std::memcpy(bytes.data() + 12, &crc, sizeof crc);
    WriteFile(path(), bytes);
    const auto opened = Log::Open({.dir = dir_.path(), .retain_bytes = kMinRetainBytes});
    if (opened.status().code() == absl::StatusCode::kInvalidArgument) {
      EXPECT_THAT(std::string(Message(opened.status())), HasSubstr("format 2"));
      EXPECT_EQ(FileOf(path()), bytes);
      return;
    }
  }
  FAIL() << "a file of another format was taken";
}

TEST_F(LogRecoveryTest, ATemporaryLogLeavesNothingBehind) {
  const auto log =
      *Log::Open({.dir = dir_.path(), .retain_bytes = kMinRetainBytes, .is_temporary = true});
  EXPECT_NE(access(path().c_str(), F_OK), 0);
}

// ---- What a kill can leave ----

// Any part of what an append writes may be there without its last word, which commits it.
class CutAppendTest : public LogRecoveryTest, public ::testing::WithParamInterface<uint64_t> {};

TEST_P(CutAppendTest, IsThereWholeOrNotAtAll) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t bound) { return random() % bound; };
  Open();
  OpenSession(1, "first");
  for (int step = 0; step < 60; ++step) {
    for (uint64_t i = below(8); i > 0; --i) Append(static_cast<int>(1 + below(10)));
    const uint64_t end = log_->end();
    const State state = log_->state();
    const std::string before = FileOf(path());
    Round round;
    uint64_t sequence = sequence_;
    for (uint64_t i = 1 + below(5); i > 0; --i) {
      if (below(3) == 0) round.Add(ShardWanted{.shard = kShard, .wanted = below(2) == 0});
      shardd::events::Add(++sequence, &round);
    }
    log_->Append(round);
    const std::string after = FileOf(path());
    // Only where nothing else than this append changed: no new segment.
    std::vector<size_t> words;
    for (size_t i = 0; i < before.size(); i += 8) {
      if (std::memcmp(before.data() + i, after.data() + i, 8) != 0) words.push_back(i);
    }
    // The first one that differs is the count in the segment's header, and no other header does.
    const bool same_segment =
        std::ranges::count_if(words, [](size_t at) { return (at - 4096) % 65536 < 64; }) == 1;
    if (!same_segment) {
      sequence_ = sequence;
      continue;
    }
    std::string cut = before;
    for (size_t i = 1; i < words.size(); ++i) {
      if (below(4) > 0) std::memcpy(cut.data() + words[i], after.data() + words[i], 8);
    }
    log_.reset();
    WriteFile(path(), cut);
    Open();
    ASSERT_EQ(log_->end(), end);
    ASSERT_EQ(log_->state_at_open(), state);
    const Reading reading = ReadAll(*log_);
    ASSERT_FALSE(reading.unknown);
    ASSERT_EQ(reading.missing + reading.sequences.size(), end);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, CutAppendTest, ::testing::Range<uint64_t>(1, 7));

// A process that appends and is killed at any moment, again and again.
TEST_F(LogRecoveryTest, LosesAndDoublesNothingWhenTheProcessIsKilled) {
  std::mt19937_64 random(4711);
  auto* told = static_cast<std::atomic<uint64_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  uint64_t appended = 0;
  uint32_t session = 0;
  for (int kill_number = 0; kill_number < 40; ++kill_number) {
    told->store(0);
    const pid_t child = fork();
    if (child == 0) {
      auto log = *Log::Open({.dir = dir_.path(), .retain_bytes = kMinRetainBytes});
      const State state = log->state_at_open();
      uint64_t sequence = log->end();
      uint32_t number = state.shards.contains(kShard) ? state.shards.at(kShard).last_session : 0;
      std::mt19937_64 child_random(sequence);
      Round round;
      for (;;) {
        if (child_random() % 50 == 0 || number == 0) {
          round.Add(SessionOpened{.shard = kShard,
                                  .session = ++number,
                                  .id = std::to_string(number),
                                  .resume_url = {},
                                  .intents = 1});
          shardd::events::Add(++sequence, &round, number);
        }
        for (uint64_t i = child_random() % 12; i > 0; --i) {
          shardd::events::Add(++sequence, &round, number);
        }
        log->Append(round);
        told->store(sequence, std::memory_order_release);
      }
    }
    // The first append shows that it has begun.
    while (told->load() == 0) usleep(50);
    usleep(static_cast<useconds_t>(random() % 3000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const uint64_t acknowledged = told->load(std::memory_order_acquire);
    Open();
    ASSERT_GE(log_->end(), acknowledged);
    ASSERT_LE(log_->end(), acknowledged + 13);
    ASSERT_GE(log_->end(), appended);
    appended = log_->end();
    const Reading reading = ReadAll(*log_);
    ASSERT_FALSE(reading.unknown);
    ASSERT_EQ(reading.missing + reading.sequences.size(), appended);
    for (size_t i = 0; i < reading.sequences.size(); ++i) {
      ASSERT_EQ(reading.sequences[i], reading.missing + i + 1);
    }
    const ShardRecord& shard = log_->state_at_open().shards.at(kShard);
    ASSERT_GE(shard.last_session, session);
    session = shard.last_session;
    ASSERT_EQ(shard.session->id, std::to_string(session)) << "READY without its session";
    ASSERT_EQ(shard.session->last_sequence, appended);
    log_.reset();
  }
  munmap(told, 4096);
}

// ---- Transactions ----

// As a rescale's switch: shards, asides, copies, and `events` events behind them.
void FillSwitch(uint64_t sequence, int shards, int events, size_t ready_bytes, Round* round) {
  round->Add(GenerationBegun{.generation = sequence, .shard_count = 100});
  CopiesExpected expected;
  for (uint64_t i = 0; i < 50; ++i) expected.copies.push_back({.key = {.high = i + sequence}});
  round->Add(CopiesForgotten{});
  round->Add(expected);
  const std::string ready(ready_bytes, 'r');
  for (int i = 0; i < shards; ++i) {
    const ShardId shard{.id = static_cast<uint32_t>(i), .count = 100};
    round->Add(SessionOpened{.shard = shard,
                             .session = 9,
                             .id = std::to_string(sequence),
                             .resume_url = {},
                             .intents = 5});
    NewEvent aside = Event(3, ready, 9);
    aside.shard = shard;
    aside.type = "READY";
    round->AddAside(aside);
    round->Add(SequencePassed{.shard = shard, .session = 9, .sequence = 77});
  }
  for (int i = 0; i < events; ++i) Add(++sequence, round);
  round->CommitTogether();
}

TEST_F(LogRecoveryTest, ReadersDoNotSeeAsides) {
  Open();
  Append(3);
  Round round;
  FillSwitch(sequence_, 5, 4, 100, &round);
  log_->Append(round);
  sequence_ += 4;
  Append(2);
  for (int life = 0; life < 2; ++life, Open()) {
    EXPECT_EQ(log_->end(), 9u);
    EXPECT_EQ(log_->GetStats().events, 9u);
    EXPECT_EQ(log_->CountFrom(0), 9u);
    EXPECT_EQ(log_->CountFrom(3), 6u);
    EXPECT_EQ(log_->ReceivedUnixNanos(3), 4);
    for (uint64_t from = 0; from < 9; ++from) {
      const events::Run run = log_->Read(from, {.max_events = 4});
      ASSERT_EQ(run.first, from);
      // A run ends before what is not in it.
      ASSERT_EQ(run.count, from < 3 ? 3 - from : std::min<uint64_t>(4, 9 - from));
      events::Run filtered = BeginRun(from);
      ReadFiltered(*log_, *Filter::Make({.types = {"MESSAGE_CREATE", "READY"}}), {}, &filtered);
      ASSERT_EQ(filtered.count, 9 - from);
    }
    const Reading reading = ReadAll(*log_);
    EXPECT_EQ(reading.sequences.size(), 9u);
    EXPECT_EQ(reading.missing, 0u);
    EXPECT_EQ(log_->Look(3).entry(0).kind, EntryKind::kEvent);
    const View view = log_->LookWithAsides(3);
    int asides = 0;
    for (uint32_t i = 0; i < view.size(); ++i) {
      if (!view.entry(i).is_aside()) continue;
      ++asides;
      EXPECT_EQ(view.entry(i).offset, 3u);
      v1::EventBatch batch;
      const std::string_view record = view.record(i);
      ASSERT_TRUE(batch.ParseFromArray(record.data(), static_cast<int>(record.size())));
      EXPECT_EQ(batch.events(0).type(), "READY");
      EXPECT_EQ(batch.events(0).offset(), 3u);
    }
    EXPECT_EQ(asides, 5);
    EXPECT_EQ(log_->LookWithAsides(4).entry(0).offset, 4u);
    const State state = log_->state();
    EXPECT_EQ(state.shards.at({.id = 4, .count = 100}).session->last_sequence, 77u);
  }
}

TEST_F(LogRecoveryTest, TheSequenceOfAnAsideCounts) {
  Open();
  Round round;
  round.Add(GenerationBegun{.generation = 1, .shard_count = 1});
  round.Add(
      SessionOpened{.shard = kShard, .session = 1, .id = "a", .resume_url = {}, .intents = 5});
  round.AddAside(Event(5, "{}"));
  NewEvent own = Event(0, "{}");
  round.Add(own);
  log_->Append(round);
  EXPECT_EQ(log_->state().shards.at(kShard).session->last_sequence, 5u);
}

TEST_F(LogRecoveryTest, ADamagedAsideIsNoGap) {
  Open();
  Append(3);
  Round round;
  FillSwitch(sequence_, 1, 4, 100, &round);
  log_->Append(round);
  sequence_ += 4;
  log_.reset();
  std::string bytes = FileOf(path());
  bytes[bytes.find("rrrr") + 10] = '!';
  WriteFile(path(), bytes);
  Open();
  const Reading reading = ReadAll(*log_);
  EXPECT_EQ(reading.sequences.size(), 7u);
  EXPECT_EQ(reading.missing, 0u);
  EXPECT_EQ(log_->state_at_open().shards.at({.id = 0, .count = 100}).session->last_sequence, 77u);
}

TEST_F(LogRecoveryTest, AnotherSizeKeepsAsidesWithTheEventBehindThem) {
  Open(4 * kMinRetainBytes);
  for (int i = 0; i < 100; ++i) Append(1);
  Round round;
  FillSwitch(sequence_, 20, 100, 2000, &round);
  log_->Append(round);
  sequence_ += 100;
  const auto asides = [&] {
    size_t count = 0;
    for (uint64_t at = log_->oldest(); at < log_->end();) {
      const View view = log_->LookWithAsides(at);
      for (uint32_t i = 0; i < view.size(); ++i) {
        if (!view.entry(i).is_aside()) continue;
        ++count;
        EXPECT_EQ(view.entry(i).offset, 100u);
      }
      at = view.next();
    }
    return count;
  };
  EXPECT_EQ(asides(), 20u);
  for (const uint64_t size : {8, 1, 2}) {
    const State before = log_->state();
    Open(size * kMinRetainBytes);
    EXPECT_EQ(asides(), 20u) << size;
    EXPECT_EQ(log_->state_at_open(), before);
    const Reading reading = ReadAll(*log_);
    EXPECT_EQ(reading.sequences.size() + reading.missing, sequence_);
    EXPECT_EQ(reading.sequences.back(), sequence_);
  }
  // More than a log of the smallest size can take at once.
  Open(8 * kMinRetainBytes);
  FillSwitch(sequence_, 50, 500, 20'000, &round);
  ASSERT_LE(round.log_bytes(), LargestTransaction(8 * kMinRetainBytes));
  ASSERT_GT(round.log_bytes(), LargestTransaction(kMinRetainBytes));
  log_->Append(round);
  sequence_ += 500;
  const State before = log_->state();
  Open(kMinRetainBytes);
  EXPECT_EQ(log_->state_at_open(), before);
  EXPECT_EQ(ReadAll(*log_).sequences.back(), sequence_);
}

// An older version would take what it does not know for damage, and double events.
TEST_F(LogRecoveryTest, AFileWithARescaleInItSaysSo) {
  const auto features = [&] {
    uint64_t bits = 0;
    const std::string bytes = FileOf(path());
    std::memcpy(&bits, bytes.data() + 16, sizeof bits);
    return bits;
  };
  Open();
  Append(3);
  Round round;
  round.Add(RescaleChanged{{.from_shard_count = 1, .to_shard_count = 2, .reason = {}}});
  log_->Append(round);
  EXPECT_EQ(features(), 0u);
  FillSwitch(sequence_, 1, 1, 10, &round);
  log_->Append(round);
  EXPECT_EQ(features(), LogFile::kRescales);
  Open();
  EXPECT_EQ(features(), LogFile::kRescales);
  Open(4 * kMinRetainBytes);
  EXPECT_EQ(features(), LogFile::kRescales);
}

TEST_F(LogRecoveryTest, TheLargestTransactionFitsWhereverItComes) {
  for (const uint64_t retain_bytes : {kMinRetainBytes, kMinRetainBytes * 3 + 12345}) {
    Open(retain_bytes);
    for (int i = 0; i < 60; ++i) {
      Append(i * 7 % 50);
      CopiesExpected expected;
      for (uint64_t k = 0; k < MaxExpectedCopies(retain_bytes); ++k) {
        expected.copies.push_back({.key = {.high = k}, .unix_nanos = i});
      }
      Round round;
      round.Add(CopiesForgotten{});
      round.Add(expected);
      // Many small ones, or few large ones.
      const std::string data(i % 2 == 0 ? 0 : 20'000, 'x');
      while (round.log_bytes() + data.size() + 300 < LargestTransaction(retain_bytes)) {
        round.Add(Event(++sequence_, data));
      }
      round.CommitTogether();
      log_->Append(round);
      ASSERT_EQ(log_->end(), sequence_);
      ASSERT_EQ(CountCopies(log_->state()), MaxExpectedCopies(retain_bytes));
    }
    log_.reset();
    unlink(path().c_str());
    sequence_ = 0;
  }
}

// Killed in the middle of it, again and again.
TEST_F(LogRecoveryTest, ATransactionOfSeveralSlotsIsThereWholeOrNotAtAll) {
  constexpr uint64_t kRetain = 16 * kMinRetainBytes;
  constexpr uint64_t kEvents = 3000;
  std::mt19937_64 random(77);
  auto* told = static_cast<std::atomic<uint64_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int whole = 0, none = 0;
  for (int kill_number = 0; kill_number < 60; ++kill_number) {
    told->store(0);
    const pid_t child = fork();
    if (child == 0) {
      auto log = *Log::Open({.dir = dir_.path(), .retain_bytes = kRetain});
      Round round;
      FillSwitch(log->end(), 20, kEvents, 5'000, &round);
      told->store(1, std::memory_order_release);
      log->Append(round);
      told->store(2, std::memory_order_release);
      for (;;) pause();
    }
    while (told->load() == 0) usleep(20);
    const uint64_t pause = random() % 2'500;
    for (uint64_t i = 0; i < pause && told->load() != 2; i += 50) usleep(50);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const bool was_done = told->load() == 2;
    Open(kRetain);
    const uint64_t end = log_->end();
    ASSERT_TRUE(end == sequence_ || end == sequence_ + kEvents) << end - sequence_;
    if (was_done) {
      ASSERT_EQ(end, sequence_ + kEvents);
    }
    (end == sequence_ ? none : whole) += 1;
    const State& state = log_->state_at_open();
    if (end > 0) {
      const uint64_t newest = end - kEvents;
      EXPECT_EQ(state.generation, newest);
      EXPECT_EQ(CountCopies(state), 50u);
      ASSERT_EQ(state.shards.size(), 20u);
      EXPECT_EQ(state.shards.begin()->second.session->id, std::to_string(newest));
    }
    sequence_ = end;
    const Reading reading = ReadAll(*log_);
    ASSERT_FALSE(reading.unknown);
    ASSERT_EQ(reading.missing + reading.sequences.size(), end);
    log_.reset();
  }
  EXPECT_GT(whole, 0);
  EXPECT_GT(none, 0);
  munmap(told, 4096);
}

// ---- Damage ----

class DamageTest : public LogRecoveryTest, public ::testing::WithParamInterface<uint64_t> {};

// Whatever happens to the file: what is read is what was written, and what is missing is said.
TEST_P(DamageTest, IsAGapOrANewLogAndNeverSilent) {
  std::mt19937_64 random(GetParam());
  const auto below = [&](uint64_t bound) { return random() % bound; };
  Open();
  OpenSession(1, "first");
  for (uint64_t i = below(300); i > 0; --i) Append(5);
  log_.reset();
  const std::string good = FileOf(path());
  const uint64_t last = sequence_;
  for (int step = 0; step < 40; ++step) {
    std::string bytes = good;
    switch (below(4)) {
      case 0:
        bytes.resize(below(bytes.size()));
        break;
      case 1: {
        const size_t at = below(bytes.size());
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    std::min<size_t>(below(70'000), bytes.size() - at), '\0');
        break;
      }
      default:
        for (uint64_t i = 1 + below(20); i > 0; --i) {
          // Headers and indices are small, and get their share.
          const size_t at =
              below(2) == 0 ? below(bytes.size()) : 4096 + below(17) * 65536 + below(256);
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        }
    }
    WriteFile(path(), bytes);
    auto opened = Log::Open({.dir = dir_.path(), .retain_bytes = kMinRetainBytes});
    ASSERT_TRUE(opened.ok()) << opened.status();
    log_ = *std::move(opened);
    sequence_ = last;
    Append(3);
    const Reading reading = ReadAll(*log_);
    ASSERT_GE(reading.sequences.size(), 3u);
    ASSERT_EQ(reading.sequences.back(), last + 3);
    if (!reading.unknown && log_->end() == last + 3) {
      ASSERT_EQ(reading.missing + reading.sequences.size(), last + 3);
    }
    for (size_t i = 1; i < reading.sequences.size(); ++i) {
      ASSERT_LT(reading.sequences[i - 1], reading.sequences[i]);
    }
    // Once told, it is as good as any.
    Open();
    ASSERT_TRUE(ReadAll(*log_).sequences == reading.sequences) << "step " << step;
    log_.reset();
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, DamageTest, ::testing::Range<uint64_t>(1, 13));

TEST_F(LogRecoveryTest, AFlippedByteOfAnEventLosesThatEventAlone) {
  Open();
  for (int i = 0; i < 100; ++i) Append(1);
  const size_t victim = FileOf(path()).find("{\"n\":42x");
  ASSERT_NE(victim, std::string::npos);
  log_.reset();
  std::string bytes = FileOf(path());
  bytes[victim + 8] = '!';
  WriteFile(path(), bytes);
  Open();
  const Reading reading = ReadAll(*log_);
  EXPECT_EQ(reading.sequences.size(), 99u);
  EXPECT_EQ(reading.missing, 1u);
  EXPECT_FALSE(reading.unknown);
  EXPECT_EQ(log_->end(), 100u);
  const events::Run gap = log_->Read(41, {});
  EXPECT_EQ(gap.first, 42u);
  EXPECT_EQ(gap.missing->reason, MissingReason::kDamaged);
}

TEST_F(LogRecoveryTest, APositionInALostTailIsNeverTakenForOneInWhatCameInstead) {
  Open();
  for (int i = 0; i < 400; ++i) Append(1);
  const uint64_t end = log_->end();
  log_.reset();
  // Cut behind the second segment.
  std::string bytes = FileOf(path());
  bytes.resize(4096 + 2 * 65536);
  WriteFile(path(), bytes);
  Open();
  const uint64_t cut = log_->Read(0, {.max_events = 1000000}).next;
  ASSERT_LT(cut, end);
  for (int i = 0; i < 400; ++i) Append(1);
  EXPECT_GT(log_->end(), end);
  const events::Run run = log_->Read(end, {});
  EXPECT_GT(run.first, end);
  ASSERT_TRUE(run.missing.has_value());
  EXPECT_EQ(run.missing->reason, MissingReason::kTruncated);
  EXPECT_FALSE(run.missing->events.has_value());
}

TEST_F(LogRecoveryTest, ALossIsNotForgottenWhereTheProcessDiesBeforeItIsTold) {
  Open();
  for (int i = 0; i < 400; ++i) Append(1);
  log_.reset();
  std::string bytes = FileOf(path());
  bytes.resize(4096 + 2 * 65536);
  WriteFile(path(), bytes);
  // Opened and made whole again, and then the process ends.
  ASSERT_TRUE(LogFile::Open(path()).ok());
  Open();
  EXPECT_GE(log_->end(), uint64_t{1} << 32);
  const uint64_t end = log_->end();
  Open();
  EXPECT_EQ(log_->end(), end) << "told once";
}

TEST_F(LogRecoveryTest, AZeroedHeaderOfTheNewestSegmentIsALossThatIsTold) {
  Open();
  for (int i = 0; i < 60; ++i) Append(1);
  log_.reset();
  std::string bytes = FileOf(path());
  std::fill_n(bytes.begin() + 4096 + 65536, 512, '\0');
  WriteFile(path(), bytes);
  Open();
  EXPECT_GE(log_->end(), uint64_t{1} << 32);
}

TEST_F(LogRecoveryTest, ADamagedBeginningOfTheNewestSegmentForgetsNoSession) {
  Open();
  OpenSession(1, "first");
  for (int i = 0; i < 60; ++i) Append(1);
  log_.reset();
  std::string bytes = FileOf(path());
  // The second slot's checkpoint and the entry behind it.
  std::fill_n(bytes.begin() + 4096 + 2 * 65536 - 128, 128, '\0');
  WriteFile(path(), bytes);
  Open();
  const ShardRecord& shard = log_->state_at_open().shards.at(kShard);
  ASSERT_TRUE(shard.session.has_value());
  EXPECT_EQ(shard.session->id, "first");
  EXPECT_EQ(shard.session->last_sequence, sequence_);
  EXPECT_EQ(ReadAll(*log_).missing, 1u);
}

TEST_F(LogRecoveryTest, SegmentsOfControlEntriesAloneHideNoEvents) {
  Open();
  Append(3);
  for (int i = 0; i < 40; ++i) {
    Round round;
    for (int j = 0; j < 200; ++j) round.Add(ShardWanted{.shard = kShard, .wanted = j % 2 == 0});
    for (int k = 0; k < 12; ++k) {
      log_->Append(round);
      for (int j = 0; j < 200; ++j) round.Add(ShardWanted{.shard = kShard, .wanted = j % 2 == 0});
    }
    round.Clear();
    const std::string data(60'000, 'x');
    NewEvent event = Event(++sequence_, data);
    round.Add(event);
    log_->Append(round);
    const uint64_t end = log_->end();
    const uint64_t events = log_->GetStats().events;
    Open();
    ASSERT_EQ(log_->end(), end);
    ASSERT_EQ(log_->GetStats().events, events);
  }
}

TEST_F(LogRecoveryTest, AnEventOverSeveralSlotsLeavesNothingThatLooksLikeDamage) {
  Open();
  for (int i = 0; i < 60; ++i) {
    Round round;
    const std::string data(i % 3 == 0 ? 150'000 : 20'000, 'x');
    round.Add(Event(++sequence_, data));
    log_->Append(round);
    // As a kill would leave it, with whatever rests.
    const std::string bytes = FileOf(path());
    test::TempDir copy;
    WriteFile(copy / "log", bytes);
    const auto opened = Log::Open({.dir = copy.path(), .retain_bytes = kMinRetainBytes});
    ASSERT_TRUE(opened.ok());
    ASSERT_EQ((*opened)->end(), sequence_) << i;
  }
}

TEST_F(LogRecoveryTest, AnotherSizeKeepsHolesAndDamageAsTheyAre) {
  Open(4 * kMinRetainBytes);
  for (int i = 0; i < 300; ++i) Append(1);
  log_.reset();
  std::string bytes = FileOf(path());
  for (const uint64_t n : {42, 77, 120, 300}) {
    const size_t victim = bytes.find("{\"n\":" + std::to_string(n) + "x");
    ASSERT_NE(victim, std::string::npos);
    bytes[victim + 9] = '!';
  }
  WriteFile(path(), bytes);
  Open(8 * kMinRetainBytes);
  EXPECT_EQ(log_->end(), 300u);
  EXPECT_EQ(ReadAll(*log_).missing, 4u);
  // The end is lost, and nothing has come since.
  log_.reset();
  bytes = FileOf(path());
  bytes.resize(bytes.size() / 2);
  WriteFile(path(), bytes);
  Open(4 * kMinRetainBytes);
  const uint64_t end = log_->end();
  EXPECT_GE(end, uint64_t{1} << 32);
  Open(8 * kMinRetainBytes);
  EXPECT_EQ(log_->end(), end);
  // Far less than the newest segment.
  for (int i = 0; i < 400; ++i) Append(1);
  Open(kMinRetainBytes);
  EXPECT_GT(ReadAll(*log_).sequences.size(), 50u);
  EXPECT_EQ(ReadAll(*log_).sequences.back(), sequence_);
}

}  // namespace
}  // namespace shardd::events
