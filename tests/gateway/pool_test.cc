// The pool against the simulated Discord, over real sockets.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "gateway/gateway_bot.h"
#include "gateway/intents.h"
#include "gateway/recorder.h"
#include "gateway/shard_pool.h"
#include "simulator/simulator.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using simulator::MessageKind;
using simulator::SentDispatch;
using simulator::Simulator;
using simulator::SimulatorOptions;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr ShardId kOnly{0, 1};

// Throws once, at the n-th call of one of its methods, and does what it should at all others.
class ThrowingSink final : public EventSink {
 public:
  enum Method { kOpened, kDispatch, kState, kLost, kFlush };
  ThrowingSink(std::unique_ptr<EventSink> sink, Method method, int at)
      : sink_(std::move(sink)), method_(method), left_(at) {}

  void OnSessionOpened(const OpenedSession& opened) override {
    Count(kOpened);
    sink_->OnSessionOpened(opened);
  }
  void OnSessionEnded(ShardId shard, uint32_t session) override {
    sink_->OnSessionEnded(shard, session);
  }
  void OnDispatch(const Dispatch& dispatch) override {
    Count(kDispatch);
    sink_->OnDispatch(dispatch);
  }
  void OnStateChange(const ShardInfo& shard) override {
    Count(kState);
    sink_->OnStateChange(shard);
  }
  void OnSessionLost(const LostSession& lost) override {
    Count(kLost);
    sink_->OnSessionLost(lost);
  }
  void OnSkippedEvent(const SkippedEvent& skipped) override { sink_->OnSkippedEvent(skipped); }
  void OnCrashLoop(const CrashLoop& loop) override { sink_->OnCrashLoop(loop); }
  void OnSilence(const ShardSilence& silence) override { sink_->OnSilence(silence); }
  void OnHeartbeatAck(ShardId shard, SteadyTime sent) override {
    sink_->OnHeartbeatAck(shard, sent);
  }
  void Flush() override {
    Count(kFlush);
    sink_->Flush();
  }

 private:
  void Count(Method method) {
    if (method == method_ && --left_ == 0) throw std::bad_alloc();
  }
  const std::unique_ptr<EventSink> sink_;
  const Method method_;
  int left_;
};

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() {
    discord_options_.record = true;
    discord_options_.guilds = 20;
    discord_options_.max_concurrency = 16;
    discord_options_.identify_window = 100ms;

    options_.token = "secret-token";
    options_.intents = kAllUnprivilegedIntents;
    options_.threads = 2;
    options_.identify_window = 120ms;
    options_.timings.invalid_session_pause_min = 10ms;
    options_.timings.invalid_session_pause_max = 50ms;
    options_.timings.retry.first = 20ms;
    options_.timings.retry.longest = 200ms;
    options_.timings.unstable.first = 10ms;
    options_.timings.unstable.longest = 100ms;
    options_.timings.send_window = 50ms;
    options_.crash_guard.deaths = 100;  // most tests want to see what follows one
  }
  ~PoolTest() override { ::unsetenv("SSL_CERT_FILE"); }

  void StartDiscord() {
    discord_ = std::make_unique<Simulator>(discord_options_);
    if (discord_options_.tls) {
      ::setenv("SSL_CERT_FILE", discord_->certificate_path().c_str(), 1);
    }
  }

  absl::StatusOr<GatewayBot> Fetch() {
    return FetchGatewayBot({.api_url = discord_->api_url(), .token = options_.token}, {});
  }

  // Discord and a pool that knows it, without shards.
  void StartPool() {
    if (discord_ == nullptr) StartDiscord();
    pool_ = std::make_unique<ShardPool>(options_, [this]() -> std::unique_ptr<EventSink> {
      if (throw_at_ == 0) return recorder_.MakeSink();
      return std::make_unique<ThrowingSink>(recorder_.MakeSink(), throw_in_, throw_at_);
    });
    const auto bot = Fetch();
    ASSERT_TRUE(bot.ok()) << bot.status();
    pool_->SetGatewayBot(*bot);
  }

  void Spawn(uint32_t count) {
    std::vector<uint32_t> ids(count);
    std::iota(ids.begin(), ids.end(), 0);
    const absl::Status status = pool_->Spawn(ids, count);
    ASSERT_TRUE(status.ok()) << status;
  }

  // All of it, with every guild there.
  void StartReady(uint32_t count = 1) {
    StartPool();
    Spawn(count);
    ASSERT_TRUE(discord_->WaitForSessions(count, count));
    for (uint32_t id = 0; id < count; ++id)
      ASSERT_TRUE(WaitForState({id, count}, ShardState::kReady));
  }

  ShardInfo Info(ShardId shard = kOnly) const {
    for (const ShardInfo& each : pool_->Snapshot()) {
      if (each.shard == shard) return each;
    }
    return {};
  }

  bool WaitForState(ShardId shard, ShardState state) {
    return recorder_.WaitUntil([&] { return Info(shard).state == state; });
  }
  bool WaitForResumes(uint64_t resumes, ShardId shard = kOnly) {
    return recorder_.WaitUntil([&] {
      const ShardInfo info = Info(shard);
      return info.resumes >= resumes && info.state == ShardState::kReady;
    });
  }
  bool WaitForSession(uint32_t session, ShardId shard = kOnly) {
    return recorder_.WaitUntil([&] {
      const ShardInfo info = Info(shard);
      return info.session >= session && info.state == ShardState::kReady;
    });
  }

  std::string SessionId(ShardId shard = kOnly) const {
    const auto session = discord_->Session(shard);
    return session ? session->session_id : "";
  }

  // What the sink was told of a session is what Discord sent in it: no hole, no double, byte for
  // byte.
  void ExpectSame(ShardId shard, uint32_t session, const std::string& session_id) {
    std::vector<SentDispatch> sent;
    std::vector<RecordedDispatch> told;
    // What comes meanwhile, such as RESUMED, is looked at or not.
    recorder_.WaitUntil([&] {
      told = recorder_.Dispatches(shard, session);
      sent = discord_->Sent(session_id);
      return told.size() == sent.size();
    });
    ASSERT_EQ(told.size(), sent.size());
    for (size_t i = 0; i < sent.size(); ++i) {
      ASSERT_EQ(told[i].sequence, sent[i].sequence);
      ASSERT_EQ(told[i].type, sent[i].type);
      ASSERT_EQ(told[i].guild_id, sent[i].guild_id) << told[i].type;
      ASSERT_TRUE(told[i].data == sent[i].data) << told[i].type;
    }
  }

  SimulatorOptions discord_options_;
  ShardPoolOptions options_;
  ThrowingSink::Method throw_in_ = ThrowingSink::kDispatch;
  int throw_at_ = 0;  // never
  Recorder recorder_;
  std::unique_ptr<Simulator> discord_;
  std::unique_ptr<ShardPool> pool_;
};

// ---- In every compression, with and without TLS ----

struct Wire {
  Compression compression;
  bool tls;
  std::string name;
};

class PoolWireTest : public PoolTest, public ::testing::WithParamInterface<Wire> {
 protected:
  PoolWireTest() {
    options_.compression = GetParam().compression;
    discord_options_.tls = GetParam().tls;
  }
};

TEST_P(PoolWireTest, EveryDispatchArrivesAsItWasSent) {
  StartReady(4);
  discord_->EmitTraffic(2000);
  for (uint32_t id = 0; id < 4; ++id) ExpectSame({id, 4}, 1, SessionId({id, 4}));
  EXPECT_EQ(pool_->Snapshot().size(), 4u);
  uint32_t guilds = 0;
  for (const ShardInfo& each : pool_->Snapshot()) guilds += each.guilds;
  EXPECT_EQ(guilds, 20u);
  const std::string expected = GetParam().compression == Compression::kNone         ? "none"
                               : GetParam().compression == Compression::kZlibStream ? "zlib-stream"
                                                                                    : "zstd-stream";
  EXPECT_EQ(discord_->Session({0, 4})->compression, expected);
}

TEST_P(PoolWireTest, ADropUnderTrafficIsResumedWithoutHoleOrDouble) {
  StartReady(2);
  for (int round = 1; round <= 3; ++round) {
    discord_->EmitTraffic(200);
    discord_->DropConnections();
    discord_->EmitTraffic(200);
    for (uint32_t id = 0; id < 2; ++id) ASSERT_TRUE(WaitForResumes(round, {id, 2}));
  }
  discord_->EmitTraffic(100);
  for (uint32_t id = 0; id < 2; ++id) {
    ExpectSame({id, 2}, 1, SessionId({id, 2}));
    EXPECT_EQ(Info({id, 2}).identifies, 1u);
  }
  EXPECT_THAT(recorder_.losses(), IsEmpty());
}

TEST_P(PoolWireTest, SplitAndLargeMessages) {
  discord_options_.large_guilds = 2;
  discord_options_.large_guild_bytes = 1'500'000;
  // Discord splits payloads of zlib-stream alone.
  if (GetParam().compression == Compression::kZlibStream) discord_options_.split_messages = 3;
  discord_options_.split_fragments = 2;
  StartReady();
  discord_->EmitTraffic(300);
  ExpectSame(kOnly, 1, SessionId());
  const auto told = recorder_.Dispatches(kOnly, 1);
  EXPECT_TRUE(
      std::ranges::any_of(told, [](const auto& each) { return each.data.size() > 1'000'000; }));
}

INSTANTIATE_TEST_SUITE_P(Wires, PoolWireTest,
                         ::testing::Values(Wire{Compression::kNone, false, "Plain"},
                                           Wire{Compression::kZlibStream, false, "Zlib"},
                                           Wire{Compression::kZstdStream, false, "Zstd"},
                                           Wire{Compression::kNone, true, "PlainTls"},
                                           Wire{Compression::kZlibStream, true, "ZlibTls"},
                                           Wire{Compression::kZstdStream, true, "ZstdTls"}),
                         [](const auto& each) { return each.param.name; });

// ---- What Discord may do ----

TEST_F(PoolTest, Op7) {
  StartReady();
  const std::string session = SessionId();
  discord_->SendReconnect();
  ASSERT_TRUE(WaitForResumes(1));
  discord_->EmitTraffic(50);
  ExpectSame(kOnly, 1, session);
  EXPECT_THAT(discord_->counters().client_closes, Contains(::testing::Pair(4000, 1)));
}

TEST_F(PoolTest, Op7InPlaceOfHello) {
  StartDiscord();
  discord_->ReconnectInsteadOfHello(1);
  StartPool();
  Spawn(1);
  EXPECT_TRUE(WaitForState(kOnly, ShardState::kReady));
}

TEST_F(PoolTest, Op9Resumable) {
  StartReady();
  const std::string session = SessionId();
  discord_->SendInvalidSession({}, true);
  ASSERT_TRUE(WaitForResumes(1));
  discord_->EmitTraffic(50);
  ExpectSame(kOnly, 1, session);
  EXPECT_THAT(recorder_.losses(), IsEmpty());
}

TEST_F(PoolTest, Op9NotResumable) {
  StartReady();
  discord_->EmitTraffic(50);
  const std::string first = SessionId();
  ExpectSame(kOnly, 1, first);
  discord_->SendInvalidSession({}, false);
  ASSERT_TRUE(WaitForSession(2));
  ASSERT_THAT(recorder_.losses(), SizeIs(1));
  EXPECT_EQ(recorder_.losses()[0].session, 1u);
  EXPECT_EQ(recorder_.losses()[0].last_sequence, recorder_.Dispatches(kOnly, 1).back().sequence);
  EXPECT_THAT(recorder_.losses()[0].reason, StartsWith("op 9"));
  ASSERT_TRUE(discord_->WaitForSessions(1, 1));
  ExpectSame(kOnly, 2, SessionId());
  EXPECT_EQ(Info().identifies, 2u);
}

TEST_F(PoolTest, ARefusedResumeBecomesAnIdentify) {
  StartReady();
  discord_->RefuseNextResumes(1);
  discord_->DropConnections();
  ASSERT_TRUE(WaitForSession(2));
  EXPECT_THAT(recorder_.losses(), SizeIs(1));
}

TEST_F(PoolTest, ARefusedIdentifyIsTriedAgain) {
  StartDiscord();
  discord_->RefuseNextIdentifies(2);
  StartPool();
  Spawn(1);
  ASSERT_TRUE(WaitForSession(1));
  EXPECT_EQ(Info().identifies, 3u);
  EXPECT_THAT(recorder_.losses(), IsEmpty());
}

TEST_F(PoolTest, MissingAcksAreAZombieAndResumed) {
  discord_options_.heartbeat_interval = 100ms;
  StartReady();
  const std::string session = SessionId();
  discord_->StopAcks({}, true);
  ASSERT_TRUE(recorder_.WaitUntil([&] { return Info().resumes >= 1; }));
  discord_->StopAcks({}, false);
  ASSERT_TRUE(WaitForResumes(1));
  discord_->EmitTraffic(50);
  ExpectSame(kOnly, 1, session);
  EXPECT_TRUE(std::ranges::any_of(recorder_.states(kOnly), [](const ShardInfo& each) {
    return each.reason.find("heartbeats were not acknowledged") != std::string::npos;
  }));
}

TEST_F(PoolTest, MissingAcksUnderTrafficAreAZombieToo) {
  discord_options_.heartbeat_interval = 100ms;
  StartReady();
  discord_->SetRate(500);
  discord_->StopAcks({}, true);
  ASSERT_TRUE(recorder_.WaitUntil([&] { return Info().resumes >= 1; }));
  discord_->StopAcks({}, false);
  ASSERT_TRUE(WaitForResumes(1));
  discord_->SetRate(0);
  ExpectSame(kOnly, 1, SessionId());
}

TEST_F(PoolTest, AConnectionThatHangsIsAZombie) {
  discord_options_.heartbeat_interval = 100ms;
  options_.timings.close_timeout = 100ms;
  StartReady();
  discord_->Freeze();
  discord_->EmitTraffic(50);
  ASSERT_TRUE(WaitForResumes(1));
  ExpectSame(kOnly, 1, SessionId());
}

TEST_F(PoolTest, HeartbeatsCarryTheSequenceAndAreAnswered) {
  discord_options_.heartbeat_interval = 100ms;
  StartReady();
  discord_->EmitTraffic(50);
  ASSERT_TRUE(discord_->WaitUntil([&] {
    const auto session = discord_->Session(kOnly);
    return session && session->heartbeat_sequence == session->sequence;
  }));
  EXPECT_TRUE(recorder_.WaitUntil([&] { return Info().latency.has_value(); }));
}

TEST_F(PoolTest, AHeartbeatThatDiscordAsksForIsSentAtOnce) {
  StartReady();
  const uint64_t before = discord_->counters().heartbeats;
  discord_->RequestHeartbeat();
  EXPECT_TRUE(discord_->WaitUntil([&] { return discord_->counters().heartbeats > before; }));
}

TEST_F(PoolTest, ABeatIsSentByReadyShardsOfOneCountAndItsAckIsTold) {
  StartReady(2);
  const std::vector<uint32_t> ids = {0, 1, 2};
  ASSERT_TRUE(pool_->Spawn(ids, 3).ok());
  for (const uint32_t id : ids) ASSERT_TRUE(WaitForState({id, 3}, ShardState::kReady));
  for (size_t round = 1; round <= 3; ++round) {
    const SteadyTime before = SteadyClock::now();
    pool_->Beat(3);
    for (const uint32_t id : ids) {
      ASSERT_TRUE(recorder_.WaitUntil([&] { return recorder_.acks({id, 3}).size() == round; }));
      EXPECT_GE(recorder_.acks({id, 3}).back(), before);
      EXPECT_LE(recorder_.acks({id, 3}).back(), SteadyClock::now());
    }
  }
  for (uint32_t id = 0; id < 2; ++id) EXPECT_THAT(recorder_.acks({id, 2}), IsEmpty());
}

TEST_F(PoolTest, BeatsWithoutEndCostNoConnection) {
  StartReady();
  for (int i = 0; i < 300; ++i) {
    const size_t acks = recorder_.acks(kOnly).size();
    pool_->Beat(1);
    // Those over the limit are left out.
    if (acks < 100) {
      ASSERT_TRUE(recorder_.WaitUntil([&] { return recorder_.acks(kOnly).size() > acks; }));
    }
  }
  discord_->EmitTraffic(10);
  ExpectSame(kOnly, 1, SessionId());
  EXPECT_THAT(discord_->counters().server_closes, IsEmpty());
  EXPECT_EQ(Info().resumes, 0u);
}

TEST_F(PoolTest, CloseCodesThatKeepTheSession) {
  StartReady();
  uint64_t resumes = 0;
  for (const uint16_t code : {0, 1001, 4000, 4001, 4002, 4005, 4008}) {
    discord_->CloseWith({}, code);
    ASSERT_TRUE(WaitForResumes(++resumes)) << code;
  }
  discord_->EmitTraffic(50);
  ExpectSame(kOnly, 1, SessionId());
}

TEST_F(PoolTest, CloseCodesThatEndTheSession) {
  StartReady();
  uint32_t session = 1;
  for (const uint16_t code : {1000, 4003, 4007, 4009}) {
    discord_->CloseWith({}, code);
    ASSERT_TRUE(WaitForSession(++session)) << code;
    EXPECT_THAT(recorder_.losses(), SizeIs(session - 1));
  }
}

TEST_F(PoolTest, AShardThatDiesAgainAndAgainPausesAndTriesAgain) {
  options_.crash_guard = {.deaths = 3, .window = 10s, .pause = 300ms};
  StartReady();
  for (uint32_t session = 1; session <= 3; ++session) {
    ASSERT_TRUE(WaitForSession(session));
    discord_->CloseWith({}, 4003);
  }
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kCrashLoop));
  const auto paused_at = std::chrono::steady_clock::now();
  EXPECT_EQ(Info().restarts, 3u);
  EXPECT_TRUE(Info().retry_at);
  ASSERT_THAT(recorder_.crash_loops(), SizeIs(1));
  EXPECT_EQ(recorder_.crash_loops()[0].deaths, 3u);
  EXPECT_EQ(recorder_.crash_loops()[0].restarts, 3u);
  EXPECT_THAT(recorder_.crash_loops()[0].reason, StartsWith("4003: "));
  ASSERT_TRUE(WaitForSession(4));
  EXPECT_GE(std::chrono::steady_clock::now() - paused_at, 250ms);
  EXPECT_GE(*Info().last_restart, *Info().connected_since - 5s);
}

TEST_F(PoolTest, SpawnEndsThePauseOfACrashLoop) {
  options_.crash_guard = {.deaths = 1, .window = 10s, .pause = 1h};
  StartReady();
  discord_->CloseWith({}, 4003);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kCrashLoop));
  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 1).ok());
  ASSERT_TRUE(WaitForSession(2));
}

TEST_F(PoolTest, WithoutRespawnADeadShardWaitsForSpawn) {
  options_.crash_guard.respawn = false;
  StartReady();
  discord_->CloseWith({}, 4003);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kFailed));
  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 1).ok());
  ASSERT_TRUE(WaitForSession(2));
}

TEST_F(PoolTest, ASilentShardIsResumedOnce) {
  options_.timings.silence_after = 200ms;
  discord_options_.heartbeat_interval = 100ms;
  StartReady();
  discord_->SetRate(1000);
  ASSERT_TRUE(recorder_.WaitUntil([this] { return recorder_.dispatch_count() > 1500; }));
  discord_->SetRate(0);
  ASSERT_TRUE(WaitForResumes(1));
  EXPECT_THAT(recorder_.silences(), SizeIs(1));
  EXPECT_EQ(Info().restarts, 0u);
  // It is silent on, which is nobody's fault: several times the shortest silence later nothing more
  // has happened.
  ASSERT_TRUE(discord_->WaitUntil([this] { return discord_->Session(kOnly)->heartbeats > 30; }));
  EXPECT_EQ(Info().resumes, 1u);
  discord_->EmitTraffic(50);
  ExpectSame(kOnly, 1, SessionId());
}

TEST_F(PoolTest, AGapInTheSequenceIsFilledByResume) {
  StartReady();
  discord_->EmitTraffic(10);
  const uint64_t sequence = discord_->Session(kOnly)->sequence;
  // A dispatch from the future, which a lost part of the stream would look like.
  discord_->SendRaw({}, R"({"t":"X","s":)" + std::to_string(sequence + 5) + R"(,"op":0,"d":{}})");
  ASSERT_TRUE(WaitForResumes(1));
  discord_->EmitTraffic(10);
  ExpectSame(kOnly, 1, SessionId());
  EXPECT_THAT(recorder_.losses(), SizeIs(0));
}

struct Throw {
  ThrowingSink::Method method;
  int at;
};
class ThrowTest : public PoolTest, public ::testing::WithParamInterface<Throw> {};

TEST_P(ThrowTest, CostsNoEventAndNoShard) {
  throw_in_ = GetParam().method;
  throw_at_ = GetParam().at;
  options_.threads = 1;
  StartReady();
  discord_->EmitTraffic(30);
  discord_->SendInvalidSession({}, /*resumable=*/true);
  discord_->EmitTraffic(30);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kReady));
  ExpectSame(kOnly, 1, SessionId());
  // What a later process would resume.
  EXPECT_EQ(recorder_.openings().back().session, 1u);
  EXPECT_EQ(recorder_.openings().back().id, SessionId());
  // A second one where the first was sent, and READY had not come.
  EXPECT_LE(discord_->counters().identifies, 2u);
  // An operator is heard as ever.
  pool_->Kill(std::vector<uint32_t>{0}, 1, /*keep_session=*/false);
  EXPECT_EQ(Info().state, ShardState::kStopped);
}

INSTANTIATE_TEST_SUITE_P(
    AtAnyTime, ThrowTest,
    ::testing::Values(Throw{ThrowingSink::kOpened, 1}, Throw{ThrowingSink::kDispatch, 1},
                      Throw{ThrowingSink::kDispatch, 2}, Throw{ThrowingSink::kDispatch, 12},
                      Throw{ThrowingSink::kDispatch, 40}, Throw{ThrowingSink::kDispatch, 55},
                      Throw{ThrowingSink::kState, 1}, Throw{ThrowingSink::kState, 2},
                      Throw{ThrowingSink::kState, 3}, Throw{ThrowingSink::kState, 4},
                      Throw{ThrowingSink::kState, 5}, Throw{ThrowingSink::kState, 6},
                      Throw{ThrowingSink::kState, 7}, Throw{ThrowingSink::kState, 8},
                      Throw{ThrowingSink::kFlush, 1}, Throw{ThrowingSink::kFlush, 2},
                      Throw{ThrowingSink::kFlush, 3}, Throw{ThrowingSink::kFlush, 5},
                      Throw{ThrowingSink::kFlush, 8}),
    [](const auto& test) {
      return std::string(test.param.method == ThrowingSink::kDispatch ? "Dispatch"
                         : test.param.method == ThrowingSink::kOpened ? "Opened"
                         : test.param.method == ThrowingSink::kState  ? "State"
                                                                      : "Flush") +
             std::to_string(test.param.at);
    });

TEST_F(PoolTest, ASessionLossThatCannotBeToldAtOnceEndsNothing) {
  throw_in_ = ThrowingSink::kLost;
  throw_at_ = 1;
  options_.threads = 1;
  StartReady();
  discord_->SendInvalidSession({}, /*resumable=*/false);
  ASSERT_TRUE(WaitForSession(2));
  ExpectSame(kOnly, 2, SessionId());
}

TEST_F(PoolTest, AServerThatAsksForHeartbeatsWithoutEndGetsNoMoreThanItAllows) {
  StartReady();
  for (int i = 0; i < 300; ++i) discord_->RequestHeartbeat();
  // Answered like the others, behind them.
  discord_->EmitTraffic(10);
  ExpectSame(kOnly, 1, SessionId());
  EXPECT_FALSE(discord_->counters().server_closes.contains(4008));
  EXPECT_EQ(Info().resumes, 0u);
  EXPECT_GT(discord_->counters().heartbeats, 50u);
}

// ---- What outlives the process ----

TEST_F(PoolTest, GoesOnWithTheSessionsOfAnEarlierPoolBeforeTheGatewayIsKnown) {
  StartReady(2);
  discord_->EmitTraffic(20);
  std::vector<KeptShard> kept;
  for (uint32_t id = 0; id < 2; ++id) ExpectSame({id, 2}, 1, SessionId({id, 2}));
  for (const RecordedOpening& opened : recorder_.openings()) {
    EXPECT_EQ(opened.intents, options_.intents);
    KeptSession session{.id = opened.id, .resume_url = opened.resume_url};
    session.last_sequence = Info(opened.shard).sequence;
    kept.push_back({.shard = opened.shard, .last_session = opened.session, .session = session});
  }
  // One that is stopped, one that has no session, and one whose session is given up.
  kept.push_back({.shard = {2, 5}, .last_session = 3, .session = {}, .is_stopped = true});
  kept.push_back({.shard = {3, 5}, .last_session = 4});
  kept.push_back({.shard = {4, 5},
                  .last_session = 5,
                  .session = KeptSession{.id = "x", .resume_url = {}, .last_sequence = 9},
                  .give_up_because = "not wanted"});
  pool_->Stop(5s);
  discord_->EmitTraffic(20);

  pool_ = std::make_unique<ShardPool>(options_, [this] { return recorder_.MakeSink(); });
  pool_->Restore(kept, "");
  EXPECT_EQ(Info({2, 5}).state, ShardState::kStopped);
  EXPECT_EQ(Info({3, 5}).state, ShardState::kIdle);
  EXPECT_EQ(Info({4, 5}).state, ShardState::kIdle);
  EXPECT_EQ(Info({4, 5}).session, 5u);
  ASSERT_THAT(recorder_.losses(), SizeIs(1));
  EXPECT_EQ(recorder_.losses()[0].reason, "not wanted");
  for (uint32_t id = 0; id < 2; ++id) {
    ASSERT_TRUE(WaitForState({id, 2}, ShardState::kReady));
    ExpectSame({id, 2}, 1, SessionId({id, 2}));
  }
  EXPECT_EQ(discord_->counters().identifies, 2u);
  EXPECT_TRUE(absl::IsUnavailable(pool_->Spawn(std::vector<uint32_t>{3}, 5)));
  // Whoever has a session is not held up by that.
  pool_->Kill(std::vector<uint32_t>{0}, 2, /*keep_session=*/true);
  EXPECT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 2).ok());
  EXPECT_TRUE(WaitForState({0, 2}, ShardState::kReady));
}

TEST_F(PoolTest, ASpawnThatOnlyResumesNeedsNoSessionStart) {
  discord_options_.session_starts_total = 2;
  StartReady(2);
  pool_->Kill(std::vector<uint32_t>{0}, 2, /*keep_session=*/true);
  discord_->SendInvalidSession(ShardId{1, 2}, /*resumable=*/false);
  ASSERT_TRUE(WaitForState({1, 2}, ShardState::kWaitingToIdentify));
  const absl::Status status = pool_->Spawn(std::vector<uint32_t>{0}, 2);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(WaitForResumes(1, {0, 2}));
}

TEST_F(PoolTest, CloseCodesThatStop) {
  StartReady();
  for (const uint16_t code : {4004, 4010, 4011, 4012, 4013, 4014}) {
    discord_->CloseWith({}, code);
    ASSERT_TRUE(WaitForState(kOnly, ShardState::kFailed)) << code;
    EXPECT_THAT(Info().reason, StartsWith(std::to_string(code) + ": "));
    Spawn(1);
    ASSERT_TRUE(WaitForState(kOnly, ShardState::kReady)) << code;
  }
}

TEST_F(PoolTest, AShardCountThatDiscordRefusesNamesRescale) {
  discord_options_.guilds = 30;
  discord_options_.max_guilds_per_shard = 10;
  discord_options_.shard_count_multiple = 2;
  StartPool();
  Spawn(2);
  ASSERT_TRUE(WaitForState({0, 2}, ShardState::kFailed));
  EXPECT_THAT(Info({0, 2}).reason, StartsWith("4011: "));
  EXPECT_THAT(Info({0, 2}).reason, HasSubstr("call Rescale with a larger shard_count"));
  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 3).ok());
  ASSERT_TRUE(WaitForState({0, 3}, ShardState::kFailed));
  EXPECT_THAT(Info({0, 3}).reason, StartsWith("4010: "));
  EXPECT_THAT(Info({0, 3}).reason, HasSubstr("call Rescale with a shard_count"));
}

TEST_F(PoolTest, AWrongTokenFails) {
  discord_options_.token = "another";
  StartDiscord();
  EXPECT_EQ(Fetch().status().code(), absl::StatusCode::kUnauthenticated);
  pool_ = std::make_unique<ShardPool>(options_, [this] { return recorder_.MakeSink(); });
  pool_->SetGatewayBot(
      {.url = discord_->gateway_url(), .session_starts_total = 10, .session_starts_remaining = 10});
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kFailed));
  EXPECT_THAT(Info().reason, StartsWith("4004: "));
  EXPECT_THAT(Info().reason, ::testing::Not(HasSubstr(options_.token)));
}

TEST_F(PoolTest, RefusedConnectionsBackOffAndResume) {
  StartReady();
  discord_->RefuseNextConnections(3);
  discord_->DropConnections();
  ASSERT_TRUE(WaitForResumes(1));
  discord_->RefuseNextConnections(3, 503);
  discord_->DropConnections();
  ASSERT_TRUE(WaitForResumes(2));
  ExpectSame(kOnly, 1, SessionId());
  EXPECT_TRUE(std::ranges::any_of(recorder_.states(kOnly), [](const ShardInfo& each) {
    return each.state == ShardState::kBackingOff && each.reason.ends_with("HTTP 503") &&
           each.retry_at;
  }));
}

TEST_F(PoolTest, NoHello) {
  options_.timings.hello_timeout = 50ms;
  StartDiscord();
  discord_->SilenceNextHellos(1);
  StartPool();
  Spawn(1);
  EXPECT_TRUE(WaitForState(kOnly, ShardState::kReady));
}

TEST_F(PoolTest, AnIdentifyWithoutAnswerIsSentAgain) {
  options_.timings.identify_timeout = 100ms;
  StartDiscord();
  discord_->IgnoreNextIdentifies(1);
  StartPool();
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kReady));
  EXPECT_EQ(Info().identifies, 2u);
}

TEST_F(PoolTest, UnknownTypesAndOpcodesPass) {
  StartReady();
  for (const char* raw :
       {R"({"t":null,"s":null,"op":99,"d":{}})", R"({"op":-3})", R"({"op":12,"d":[1]})"}) {
    discord_->SendRaw({}, raw);
  }
  discord_->Emit("A_TYPE_OF_TOMORROW", 0, R"({"x":[{"guild_id":"1"}]})");
  discord_->Emit("PRESENCES_REPLACE", 0, "[]");
  ExpectSame(kOnly, 1, SessionId());
  EXPECT_EQ(recorder_.Dispatches(kOnly, 1).back().type, "PRESENCES_REPLACE");
  EXPECT_EQ(Info().resumes, 0u);
}

TEST_F(PoolTest, GarbageEndsTheConnectionNotTheShard) {
  StartReady();
  uint64_t resumes = 0;
  for (const char* raw : {"", "{", "<html>", R"({"op":"0"})", R"({"t":"x","s":1,"op":0,"d":{}})"}) {
    discord_->SendRaw({}, raw);
    // An empty message is nothing, to zlib and zstd alike.
    if (*raw != '\0') {
      ASSERT_TRUE(WaitForResumes(++resumes)) << raw;
    }
  }
  ExpectSame(kOnly, 1, SessionId());
}

TEST_F(PoolTest, ReadyOf2500Guilds) {
  discord_options_.guilds = 2500;
  StartReady();
  EXPECT_EQ(Info().guilds, 2500u);
  ExpectSame(kOnly, 1, SessionId());
}

// ---- A hostile wire ----

class PoolHostileTest : public PoolTest, public ::testing::WithParamInterface<Compression> {
 protected:
  PoolHostileTest() {
    options_.compression = GetParam();
    options_.max_message_bytes = 1 << 20;
  }

  bool WaitForSequence(uint64_t sequence) {
    return recorder_.WaitUntil([&] { return Info().sequence == sequence; });
  }
};

TEST_P(PoolHostileTest, AnEventOverTheBoundIsSkippedAndSaidAndTheNextOnesCome) {
  StartReady();
  uint64_t resumes = 0;
  for (const size_t size : {(1 << 20) + 1, 16 << 20}) {
    discord_->EmitTraffic(20);
    ASSERT_EQ(discord_->SendBomb({}, size), 1u);
    const uint64_t sequence = discord_->Session(kOnly)->sequence;
    discord_->EmitTraffic(20);
    ASSERT_TRUE(WaitForResumes(++resumes));
    ASSERT_TRUE(WaitForSequence(discord_->Session(kOnly)->sequence));
    ASSERT_THAT(recorder_.skips(), SizeIs(resumes));
    EXPECT_EQ(recorder_.skips().back().sequence, sequence);
    EXPECT_EQ(recorder_.skips().back().type, "X");
  }
  discord_->SendBomb({}, 1 << 20);
  ASSERT_TRUE(WaitForSequence(discord_->Session(kOnly)->sequence));
  EXPECT_EQ(recorder_.Dispatches(kOnly, 1).back().type, "X");
  EXPECT_EQ(Info().resumes, resumes);
  EXPECT_EQ(Info().identifies, 1u);
  EXPECT_THAT(recorder_.losses(), IsEmpty());
}

TEST_P(PoolHostileTest, WhateverBreaksTheConnectionIsResumed) {
  StartReady();
  const std::string session = SessionId();
  uint64_t resumes = 0;
  const auto expect_resume = [&](const char* what) {
    discord_->EmitTraffic(20);
    ASSERT_TRUE(WaitForResumes(++resumes)) << what;
  };
  discord_->SendFrameHeader({}, MessageKind::kBinary, uint64_t{1} << 40);
  expect_resume("a frame that claims a TiB");
  discord_->SendBytes({}, MessageKind::kText, "{\"op\":11,\"d\":\"\xff\"}");
  expect_resume("a text that is not UTF-8");
  discord_->SendBytes({}, MessageKind::kBinary, "\x07\xff\xff\xff");
  expect_resume("broken compression, or no JSON");
  discord_->SendRaw({}, "{\"op\":11,\"d\":\"\xff\"}");
  expect_resume("a payload that is not UTF-8");
  discord_->SendRaw({},
                    R"({"op":11,"d":)" + std::string(1'000, '[') + std::string(1'000, ']') + "}");
  expect_resume("a payload that is too deep");
  discord_->SendTcpBytes({}, "\xc1\x02{}");
  expect_resume("a reserved bit");
  discord_->SendTcpBytes({}, std::string_view("\x09\x00", 2));
  expect_resume("a ping in fragments");
  discord_->SendTcpBytes({}, "\x88\x02\x03\xe7");
  expect_resume("close code 999");
  if (GetParam() != Compression::kNone) {
    discord_->SendBytes({}, MessageKind::kText, R"({"op":11})");
    expect_resume("text where binary is due");
  }
  ExpectSame(kOnly, 1, session);
  EXPECT_EQ(Info().identifies, 1u);
}

TEST_P(PoolHostileTest, AHelloThatMakesNoSenseIsNoHello) {
  StartDiscord();
  discord_->SetHello(R"({"heartbeat_interval":0})");
  StartPool();
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kBackingOff));
  EXPECT_THAT(Info().reason, HasSubstr("HELLO without a sensible heartbeat interval"));
  EXPECT_EQ(Info().identifies, 0u);
  discord_->SetHello("");
  EXPECT_TRUE(WaitForState(kOnly, ShardState::kReady));
}

INSTANTIATE_TEST_SUITE_P(Compressions, PoolHostileTest,
                         ::testing::Values(Compression::kNone, Compression::kZlibStream,
                                           Compression::kZstdStream),
                         [](const auto& each) {
                           return each.param == Compression::kNone         ? "Plain"
                                  : each.param == Compression::kZlibStream ? "Zlib"
                                                                           : "Zstd";
                         });

// ---- What other servers do ----

TEST_F(PoolTest, QuirksOfOtherServersDoNoHarm) {
  for (int quirk = 0; quirk < 7; ++quirk) {
    for (const auto compression :
         {Compression::kNone, Compression::kZlibStream, Compression::kZstdStream}) {
      SCOPED_TRACE("quirk " + std::to_string(quirk));
      pool_.reset();
      discord_options_.quirks = {};
      discord_options_.quirks.first_sequence_zero = quirk == 0;
      discord_options_.quirks.bare_hello = quirk == 1;
      discord_options_.quirks.data_first = quirk == 2;
      discord_options_.quirks.complete_frames = quirk == 3;
      discord_options_.quirks.ignore_compress = quirk == 4;
      discord_options_.quirks.ack_after_identify_only = quirk == 5;
      discord_options_.quirks.foreign_guilds = quirk == 6;
      discord_options_.quirks.require_user_agent = true;
      options_.compression = compression;
      discord_ = nullptr;
      StartReady(2);
      discord_->EmitTraffic(100);
      discord_->DropConnections();
      for (uint32_t id = 0; id < 2; ++id) ASSERT_TRUE(WaitForResumes(1, {id, 2}));
      discord_->EmitTraffic(50);
      for (uint32_t id = 0; id < 2; ++id) {
        const std::string session = SessionId({id, 2});
        const auto sent = discord_->Sent(session);
        ASSERT_TRUE(recorder_.WaitUntil([&] {
          return Info({id, 2}).sequence == sent.back().sequence;
        }));
      }
    }
  }
}

TEST_F(PoolTest, AResumeThatIsNeverAnsweredBecomesAnIdentify) {
  options_.timings.resume_timeout = 50ms;
  discord_options_.quirks.silent_resume = true;
  StartReady();
  discord_->DropConnections();
  ASSERT_TRUE(WaitForSession(2));
  ASSERT_THAT(recorder_.losses(), SizeIs(1));
  EXPECT_THAT(recorder_.losses()[0].reason, HasSubstr("could not be resumed in 3 attempts"));
}

// ---- Spawn, Kill, Stop ----

TEST_F(PoolTest, SpawnNeedsTheGateway) {
  StartDiscord();
  ShardPool pool(options_, [this] { return recorder_.MakeSink(); });
  EXPECT_EQ(pool.Spawn(std::vector<uint32_t>{0}, 1).code(), absl::StatusCode::kUnavailable);
}

TEST_F(PoolTest, SpawnIsIdempotent) {
  StartReady();
  Spawn(1);
  EXPECT_EQ(discord_->counters().identifies, 1u);
  EXPECT_EQ(Info().restarts, 0u);
}

TEST_F(PoolTest, SpawnDoesNotExceedTheBudget) {
  discord_options_.session_starts_remaining = 3;
  StartPool();
  const std::vector<uint32_t> four = {0, 1, 2, 3};
  const absl::Status status = pool_->Spawn(four, 8);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(pool_->Snapshot(), IsEmpty());
  EXPECT_TRUE(pool_->Spawn(std::vector<uint32_t>{0, 1, 2}, 8).ok());
  ASSERT_TRUE(discord_->WaitForSessions(8, 3));
  EXPECT_TRUE(recorder_.WaitUntil([&] { return pool_->session_budget().remaining == 0; }));
  EXPECT_EQ(pool_->Spawn(std::vector<uint32_t>{3}, 8).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(PoolTest, KillEndsTheSessionAndSpawnIdentifiesAnew) {
  StartReady();
  const std::vector<uint32_t> ids = {0};
  pool_->Kill(ids, 1, false);
  EXPECT_EQ(Info().state, ShardState::kStopped);
  ASSERT_TRUE(discord_->WaitUntil([&] { return !discord_->Session(kOnly); }));
  EXPECT_THAT(discord_->counters().client_closes, Contains(::testing::Pair(1000, 1)));
  Spawn(1);
  ASSERT_TRUE(WaitForSession(2));
  EXPECT_THAT(recorder_.losses(), IsEmpty());
  ASSERT_TRUE(discord_->WaitForSessions(1, 1));
  ExpectSame(kOnly, 2, SessionId());
}

TEST_F(PoolTest, KillThatKeepsTheSessionIsResumedBySpawn) {
  StartReady();
  const std::string session = SessionId();
  const std::vector<uint32_t> ids = {0};
  for (uint64_t round = 1; round <= 3; ++round) {
    pool_->Kill(ids, 1, true);
    EXPECT_EQ(Info().state, ShardState::kStopped);
    discord_->EmitTraffic(50);
    Spawn(1);
    ASSERT_TRUE(WaitForResumes(round));
  }
  ExpectSame(kOnly, 1, session);
  EXPECT_EQ(Info().identifies, 1u);
  EXPECT_EQ(Info().restarts, 0u);
}

TEST_F(PoolTest, AKeptSessionCanBeGivenUpLater) {
  StartReady();
  const std::vector<uint32_t> ids = {0};
  pool_->Kill(ids, 1, true);
  pool_->Kill(ids, 1, false);
  Spawn(1);
  ASSERT_TRUE(WaitForSession(2));
  EXPECT_EQ(Info().identifies, 2u);
}

TEST_F(PoolTest, KillWorksInEveryState) {
  StartDiscord();
  discord_->SilenceNextHellos(1000);
  StartPool();
  const std::vector<uint32_t> ids = {0};
  for (const ShardState state : {ShardState::kWaitingToIdentify, ShardState::kConnecting}) {
    Spawn(1);
    static_cast<void>(state);
    pool_->Kill(ids, 1, false);
    EXPECT_EQ(Info().state, ShardState::kStopped);
  }
  discord_->SilenceNextHellos(0);
  discord_->IgnoreNextIdentifies(1);
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kIdentifying));
  pool_->Kill(ids, 1, true);
  EXPECT_EQ(Info().state, ShardState::kStopped);
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kReady));
}

TEST_F(PoolTest, GenerationsOfDifferentCountsLiveSideBySide) {
  StartReady(2);
  const std::vector<uint32_t> ids = {0, 1, 2};
  ASSERT_TRUE(pool_->Spawn(ids, 3).ok());
  ASSERT_TRUE(discord_->WaitForSessions(3, 3));
  discord_->EmitTraffic(100);
  for (uint32_t id = 0; id < 2; ++id) ExpectSame({id, 2}, 1, SessionId({id, 2}));
  for (uint32_t id = 0; id < 3; ++id) ExpectSame({id, 3}, 1, SessionId({id, 3}));
  const auto infos = pool_->Snapshot();
  ASSERT_THAT(infos, SizeIs(5));
  EXPECT_EQ(infos[2].shard, (ShardId{0, 3}));
}

TEST_F(PoolTest, ForgottenShardsLeaveTheSnapshotUntilTheyAreSpawnedAgain) {
  StartReady(2);
  const std::vector<uint32_t> ids = {0, 1, 2};
  ASSERT_TRUE(pool_->Spawn(ids, 3).ok());
  for (const uint32_t id : ids) ASSERT_TRUE(WaitForState({id, 3}, ShardState::kReady));
  pool_->Kill(std::vector<uint32_t>{0}, 3, /*keep_session=*/false);
  pool_->Kill(std::vector<uint32_t>{1}, 3, /*keep_session=*/true);
  pool_->Forget(3);
  const auto infos = pool_->Snapshot();
  ASSERT_THAT(infos, SizeIs(3));
  EXPECT_EQ(infos[2].shard, (ShardId{2, 3}));  // it runs
  // The kept session is given up.
  ASSERT_TRUE(recorder_.WaitUntil([&] { return recorder_.ends().size() == 2; }));
  EXPECT_EQ(recorder_.ends()[1].shard, (ShardId{1, 3}));

  // Nobody finds them.
  std::optional<SendOutcome> outcome;
  std::mutex mutex;
  Command command;
  ASSERT_EQ(MakeCommand(3, R"({"status":"idle"})", &command), CommandFault::kNone);
  pool_->Send({1, 3}, command, std::nullopt, [&](const SendResult& result) {
    const std::lock_guard lock(mutex);
    outcome = result.outcome;
  });
  ASSERT_TRUE(recorder_.WaitUntil([&] {
    const std::lock_guard lock(mutex);
    return outcome.has_value();
  }));
  EXPECT_EQ(outcome, SendOutcome::kNoSuchShard);
  pool_->Kill(std::vector<uint32_t>{1}, 3, /*keep_session=*/false);
  pool_->Forget(3);
  pool_->Forget(7);
  EXPECT_THAT(pool_->Snapshot(), SizeIs(3));

  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0, 1}, 3).ok());
  for (uint32_t id = 0; id < 2; ++id) {
    ASSERT_TRUE(WaitForSession(2, {id, 3}));
    EXPECT_EQ(Info({id, 3}).session, 2u);
  }
  EXPECT_THAT(pool_->Snapshot(), SizeIs(5));
  discord_->EmitTraffic(50);
  for (uint32_t id = 0; id < 2; ++id) ExpectSame({id, 3}, 2, SessionId({id, 3}));
}

TEST_F(PoolTest, AFailedShardCanBeForgotten) {
  StartReady();
  discord_->CloseWith({}, 4014);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kFailed));
  pool_->Forget(1);
  EXPECT_THAT(pool_->Snapshot(), IsEmpty());
  EXPECT_EQ(recorder_.states(kOnly).back().state, ShardState::kStopped);
}

TEST_F(PoolTest, SessionsOfShardsThatAreSpawnedHaveNumbersAboveTheFloor) {
  StartReady(2);
  pool_->Kill(std::vector<uint32_t>{1}, 2, /*keep_session=*/false);
  pool_->SetSessionFloor(40);
  Spawn(2);  // shard 0 runs, and goes on as it is
  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 3).ok());
  ASSERT_TRUE(WaitForSession(41, {1, 2}));
  ASSERT_TRUE(WaitForSession(41, {0, 3}));
  EXPECT_EQ(Info({0, 2}).session, 1u);
  discord_->SendInvalidSession({}, /*resumable=*/false);
  ASSERT_TRUE(WaitForSession(2, {0, 2}));
  ASSERT_TRUE(WaitForSession(42, {1, 2}));
  ASSERT_TRUE(WaitForSession(42, {0, 3}));
  EXPECT_EQ(Info({0, 2}).session, 2u);
  ASSERT_TRUE(discord_->WaitForSessions(3, 1));
  ExpectSame({0, 3}, 42, SessionId({0, 3}));
}

TEST_F(PoolTest, ShardsThatAreMadeLaterBeginWithThePresenceOfThen) {
  options_.presence = R"({"status":"idle"})";
  StartReady(2);
  pool_->SetPresence(R"({"status":"dnd"})");
  ASSERT_TRUE(pool_->Spawn(std::vector<uint32_t>{0}, 3).ok());
  ASSERT_TRUE(WaitForState({0, 3}, ShardState::kReady));
  EXPECT_THAT(discord_->Session({0, 3})->presence, HasSubstr("dnd"));

  // One that is there keeps its own, until it is forgotten.
  const std::vector<uint32_t> ids = {0};
  pool_->Kill(ids, 2, /*keep_session=*/false);
  ASSERT_TRUE(pool_->Spawn(ids, 2).ok());
  ASSERT_TRUE(WaitForSession(2, {0, 2}));
  EXPECT_THAT(discord_->Session({0, 2})->presence, HasSubstr("idle"));
  pool_->Kill(ids, 2, /*keep_session=*/false);
  pool_->Forget(2);
  ASSERT_TRUE(pool_->Spawn(ids, 2).ok());
  ASSERT_TRUE(WaitForSession(3, {0, 2}));
  EXPECT_THAT(discord_->Session({0, 2})->presence, HasSubstr("dnd"));
}

TEST_F(PoolTest, IdentifiesThatAreStillDueAreCounted) {
  discord_options_.max_concurrency = 1;
  options_.identify_window = 1h;
  StartPool();
  EXPECT_EQ(pool_->session_starts_due(), 0u);
  Spawn(4);
  ASSERT_TRUE(WaitForState({0, 4}, ShardState::kReady));
  EXPECT_EQ(pool_->session_starts_due(), 3u);
  pool_->Kill(std::vector<uint32_t>{1, 2}, 4, /*keep_session=*/false);
  EXPECT_EQ(pool_->session_starts_due(), 1u);
  pool_->Stop(5s);
  EXPECT_EQ(pool_->session_starts_due(), 0u);
}

TEST_F(PoolTest, StopKeepsTheSessions) {
  StartReady(2);
  pool_->Stop(5s);
  for (const ShardInfo& each : pool_->Snapshot()) EXPECT_EQ(each.state, ShardState::kStopped);
  EXPECT_TRUE(discord_->WaitUntil([&] { return discord_->counters().open_connections == 0; }));
  EXPECT_TRUE(discord_->Session({0, 2}));
  EXPECT_THAT(discord_->counters().client_closes, Contains(::testing::Pair(4000, 2)));
  EXPECT_EQ(pool_->Spawn(std::vector<uint32_t>{0}, 2).code(), absl::StatusCode::kUnavailable);
  pool_->Stop(5s);
}

TEST_F(PoolTest, StopDropsConnectionsThatDoNotClose) {
  StartReady(2);
  discord_->Freeze();
  const auto before = std::chrono::steady_clock::now();
  pool_->Stop(50ms);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 1500ms);
}

TEST_F(PoolTest, ManyShardsThroughOneBucketAreSpaced) {
  discord_options_.max_concurrency = 1;
  StartReady(4);
  EXPECT_EQ(discord_->counters().identifies_refused, 0u);
  EXPECT_EQ(discord_->counters().identifies, 4u);
}

TEST_F(PoolTest, CommandsFromManyThreadsAtOnce) {
  discord_options_.identify_window = 0ms;
  options_.identify_window = 1ms;
  StartPool();
  std::vector<std::thread> threads;
  for (uint32_t id = 0; id < 4; ++id) {
    threads.emplace_back([this, id] {
      const std::vector<uint32_t> ids = {id, (id + 1) % 4};
      for (int i = 0; i < 30; ++i) {
        EXPECT_TRUE(pool_->Spawn(ids, 4).ok());
        std::this_thread::sleep_for(std::chrono::milliseconds(i % 5));
        pool_->Kill(ids, 4, i % 3 != 0);
        for (const ShardInfo& each : pool_->Snapshot()) EXPECT_EQ(each.shard.count, 4u);
      }
      EXPECT_TRUE(pool_->Spawn(ids, 4).ok());
    });
  }
  for (std::thread& each : threads) each.join();
  for (uint32_t id = 0; id < 4; ++id) ASSERT_TRUE(WaitForState({id, 4}, ShardState::kReady));
  discord_->EmitTraffic(100);
  threads.clear();
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([this] {
      pool_->Stop(5s);
      EXPECT_EQ(pool_->Spawn(std::vector<uint32_t>{0}, 4).code(), absl::StatusCode::kUnavailable);
      EXPECT_THAT(pool_->Snapshot(), SizeIs(4));
    });
  }
  for (std::thread& each : threads) each.join();
}

// ---- TLS ----

TEST_F(PoolTest, ACertificateOfAStrangerIsRefused) {
  discord_options_.tls = true;
  StartDiscord();
  ::unsetenv("SSL_CERT_FILE");
  const absl::Status status = Fetch().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("certificate verify failed"));
  pool_ = std::make_unique<ShardPool>(options_, [this] { return recorder_.MakeSink(); });
  pool_->SetGatewayBot(
      {.url = discord_->gateway_url(), .session_starts_total = 10, .session_starts_remaining = 10});
  Spawn(1);
  ASSERT_TRUE(WaitForState(kOnly, ShardState::kBackingOff));
  EXPECT_THAT(Info().reason, HasSubstr("certificate verify failed"));
}

// ---- GET /gateway/bot ----

TEST_F(PoolTest, GatewayBotIsRead) {
  discord_options_.recommended_shards = 7;
  discord_options_.session_starts_total = 500;
  discord_options_.session_starts_remaining = 400;
  StartDiscord();
  const auto bot = Fetch();
  ASSERT_TRUE(bot.ok()) << bot.status();
  EXPECT_EQ(bot->url, discord_->gateway_url());
  EXPECT_EQ(bot->recommended_shards, 7u);
  EXPECT_EQ(bot->session_starts_total, 500u);
  EXPECT_EQ(bot->session_starts_remaining, 400u);
  EXPECT_EQ(bot->max_concurrency, 16u);
}

TEST_F(PoolTest, ZeroRecommendedShardsMeanOne) {
  discord_options_.recommended_shards = 0;
  StartDiscord();
  EXPECT_EQ(Fetch()->recommended_shards, 1u);
}

TEST_F(PoolTest, GatewayBotsErrors) {
  StartDiscord();
  const auto expect = [this](uint16_t status, absl::StatusCode code) {
    discord_->AnswerGatewayBotWith(status, 1, 64s);
    const absl::Status result = Fetch().status();
    EXPECT_EQ(result.code(), code) << status << " " << result;
    EXPECT_THAT(std::string(result.message()), ::testing::Not(HasSubstr(options_.token)));
    return std::string(result.message());
  };
  expect(401, absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(expect(429, absl::StatusCode::kResourceExhausted), HasSubstr("64"));
  expect(500, absl::StatusCode::kUnavailable);
  expect(503, absl::StatusCode::kUnavailable);
  expect(404, absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Fetch().ok());
}

TEST_F(PoolTest, GatewayBotWithoutServerOrWithStop) {
  EXPECT_EQ(FetchGatewayBot({.api_url = "not a url", .token = "x"}, {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  StartDiscord();
  const std::string url = discord_->api_url();
  discord_ = nullptr;
  EXPECT_EQ(FetchGatewayBot({.api_url = url, .token = "x"}, {}).status().code(),
            absl::StatusCode::kUnavailable);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(FetchGatewayBot({.api_url = url, .token = "x"}, stop.get_token()).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace shardd::gateway
