#include "gateway/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "gateway/padded.h"

namespace shardd::gateway {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kMain[] = "wss://gateway.discord.gg";
constexpr char kMainUrl[] = "wss://gateway.discord.gg/?v=10&encoding=json&compress=zstd-stream";
constexpr char kResumeUrl[] =
    "wss://gateway-us-east1-b.discord.gg/?v=10&encoding=json&compress=zstd-stream";

// A small language to tell a connection's story in. What the protocol does is written down as it
// does it.
class ShardProtocolTest : public ::testing::Test {
 protected:
  ShardProtocolTest() { Use(ShardTimings{}); }

  void Use(ShardTimings timings) {
    ProtocolOptions options;
    options.timings = timings;
    Use(options);
  }
  void Use(ProtocolOptions options) {
    options.shard = {3, 16};
    options.token = "to\"ken";
    options.intents = 513;
    options.seed = 7;
    protocol_ = std::make_unique<ShardProtocol>(options, &reader_);
    protocol_->SetGatewayUrl(kMain, now_);
  }
  // A shard of another process, which has left this of it and does not know the gateway yet.
  void UseKept(KeptShard kept, const std::string& gateway_url = "") {
    ProtocolOptions options;
    options.shard = {3, 16};
    options.token = "to\"ken";
    options.intents = 513;
    protocol_ = std::make_unique<ShardProtocol>(options, &reader_);
    protocol_->SetGatewayUrl(gateway_url, now_);
    protocol_->Restore(std::move(kept));
    Collect();
  }
  static KeptShard Kept() {
    return {.shard = {3, 16},
            .last_session = 5,
            .session = KeptSession{.id = "abc",
                                   .resume_url = "wss://gateway-us-east1-b.discord.gg",
                                   .last_sequence = 41,
                                   .last_event_unix_nanos = 1'700'000'000'000'000'000}};
  }

  // ---- What happens ----

  void Start() { protocol_->Start(now_), Collect(); }
  void Stop(bool keep_session) { protocol_->Stop(keep_session, now_), Collect(); }
  void Admit(std::chrono::milliseconds wait = 0ms) {
    protocol_->Admitted(now_.steady + wait, now_), Collect();
  }
  void Connect() { protocol_->Connected(now_), Collect(); }
  void FailConnect() { protocol_->ConnectFailed("refused", now_), Collect(); }
  void Receive(const std::string& json) {
    const Padded padded(json);
    protocol_->Received(padded, now_);
    Collect();
  }
  void Close(std::optional<uint16_t> code) { protocol_->Closed(code, now_), Collect(); }
  void Lose() { protocol_->ConnectionLost("reset", now_), Collect(); }

  void Hello(int64_t interval = 41250) {
    Receive(R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":)" + std::to_string(interval) +
            "}}");
  }
  void Ready(const std::string& session = "abc", uint64_t s = 1, const std::string& guilds = "") {
    Receive(R"({"t":"READY","s":)" + std::to_string(s) + R"(,"op":0,"d":{"session_id":")" +
            session + R"(","resume_gateway_url":"wss://gateway-us-east1-b.discord.gg","guilds":[)" +
            guilds + "]}}");
  }
  void Event(uint64_t s, const std::string& type = "X", const std::string& d = "{}") {
    Receive(R"({"t":")" + type + R"(","s":)" + std::to_string(s) + R"(,"op":0,"d":)" + d + "}");
  }
  void Resumed(uint64_t s) { Event(s, "RESUMED", R"({"_trace":[]})"); }
  void Ack() { Receive(R"({"t":null,"s":null,"op":11,"d":null})"); }
  void InvalidSession(bool resumable) {
    Receive(std::string(R"({"t":null,"s":null,"op":9,"d":)") + (resumable ? "true}" : "false}"));
  }
  void AskForBeat() { Receive(R"({"t":null,"s":null,"op":1,"d":null})"); }
  void Beat() { protocol_->Beat(now_), Collect(); }
  void Reconnect() { Receive(R"({"t":null,"s":null,"op":7,"d":null})"); }

  // Lets time pass, with a tick at each deadline on the way.
  void Advance(std::chrono::milliseconds time) {
    const SteadyTime until = now_.steady + time;
    while (protocol_->deadline() <= until) {
      SetTime(std::max(now_.steady, protocol_->deadline()));
      protocol_->Tick(now_);
      Collect();
    }
    SetTime(until);
  }
  // The same with the server answering each heartbeat.
  void AdvanceWithAcks(std::chrono::milliseconds time) {
    const SteadyTime until = now_.steady + time;
    while (protocol_->deadline() <= until) {
      SetTime(std::max(now_.steady, protocol_->deadline()));
      const size_t before = beats_;
      protocol_->Tick(now_);
      Collect();
      if (beats_ > before) Ack();
    }
    SetTime(until);
  }
  void SetTime(SteadyTime time) {
    now_.wall +=
        std::chrono::duration_cast<std::chrono::system_clock::duration>(time - now_.steady);
    now_.steady = time;
  }

  // Up to READY.
  void BecomeReady(int64_t interval = 41250) {
    Start();
    Admit();
    Connect();
    Hello(interval);
    Ready();
    done_.clear();
  }
  // From a connection that has just been asked for, up to RESUME sent.
  void SendResume() {
    Connect();
    Hello();
    EXPECT_THAT(Last(), StartsWith("send {\"op\":6"));
    done_.clear();
  }

  // From the gate on: IDENTIFY is refused.
  void FailIdentify() {
    Admit();
    Connect();
    Hello();
    InvalidSession(false);
  }
  void DieThrice() {
    Start();
    for (int i = 0; i < 3; ++i) {
      FailIdentify();
      while (state() == ShardState::kBackingOff) Advance(1s);
    }
    ASSERT_EQ(state(), ShardState::kCrashLoop);
  }

  // ---- What came of it ----

  std::optional<WallTime> LastRestart() const { return protocol_->info().last_restart; }
  void Collect() {
    while (!protocol_->actions().empty()) {
      const std::vector<Action> actions = std::exchange(protocol_->actions(), {});
      for (const Action& each : actions) std::visit([this](const auto& a) { Note(a); }, each);
    }
  }
  void Note(const action::EnterGate& a) {
    done_.push_back(a.is_recovery ? "enter gate to recover" : "enter gate");
  }
  void Note(const action::LeaveGate&) { done_.push_back("leave gate"); }
  void Note(const action::SpendSessionStart&) {
    done_.push_back("spend");
    if (grants_) protocol_->SessionStartGranted(now_);
  }
  void Note(const action::Connect& a) { done_.push_back("connect " + a.url); }
  void Note(const action::Send& a) {
    if (a.is_heartbeat) ++beats_;
    // Whoever is told of states knows that a session is about to begin.
    if (a.text.starts_with("{\"op\":2,")) {
      EXPECT_EQ(states_.back(), ShardState::kIdentifying);
    }
    done_.push_back("send " + a.text);
  }
  void Note(const action::Close& a) { done_.push_back("close " + std::to_string(a.code)); }
  void Note(const action::OpenSession& a) {
    kept_.push_back("open " + std::to_string(a.session) + " " + a.id + " at " + a.resume_url +
                    " with " + std::to_string(a.intents));
  }
  void Note(const action::EndSession& a) { kept_.push_back("end " + std::to_string(a.session)); }
  void Note(const action::EmitDispatch& a) {
    kept_.push_back("sequence " + std::to_string(a.dispatch.session) + ":" +
                    std::to_string(a.dispatch.sequence));
    done_.push_back("emit " + std::string(a.dispatch.type) + " " +
                    std::to_string(a.dispatch.session) + ":" + std::to_string(a.dispatch.sequence));
    last_data_ = a.dispatch.data;
    last_guild_ = a.dispatch.guild_id;
  }
  void Note(const action::ChangeState& a) { states_.push_back(a.info.state); }
  void Note(const action::LoseSession& a) {
    done_.push_back("lost " + std::to_string(a.session) + ":" + std::to_string(a.last_sequence) +
                    " " + a.reason);
  }
  void Note(const action::SkipEvent& a) {
    kept_.push_back("sequence skipped " + std::to_string(a.sequence));
    done_.push_back("skip " + a.type + " " + std::to_string(a.sequence));
  }
  void Note(const action::EnterCrashLoop& a) {
    done_.push_back("crash loop " + std::to_string(a.deaths) + " " + a.reason);
  }
  void Note(const action::ReportAck& a) { acks_.push_back(a.sent); }
  void Note(const action::ReportSilence&) { done_.push_back("silence"); }
  void Note(const action::Warn& a) { warnings_.push_back(a.text); }

  std::vector<std::string> Done() { return std::exchange(done_, {}); }
  std::string Last() const { return done_.empty() ? "" : done_.back(); }
  ShardState state() const { return protocol_->info().state; }
  std::string reason() const { return protocol_->info().reason; }

  Now now_{SteadyTime(1h), WallTime(std::chrono::hours(24 * 365 * 50))};
  EnvelopeReader reader_;
  std::unique_ptr<ShardProtocol> protocol_;
  std::vector<std::string> done_;
  std::vector<std::string> kept_;  // what a later process will know
  std::vector<ShardState> states_;
  std::vector<std::string> warnings_;
  std::string last_data_;
  uint64_t last_guild_ = 0;
  size_t beats_ = 0;
  std::vector<SteadyTime> acks_;  // when the heartbeats that were acknowledged were sent
  bool grants_ = true;            // session starts, at once
};

TEST_F(ShardProtocolTest, FromStartToReady) {
  Start();
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
  EXPECT_EQ(state(), ShardState::kWaitingToIdentify);
  Admit();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl));
  EXPECT_EQ(state(), ShardState::kConnecting);
  Connect();
  EXPECT_THAT(Done(), IsEmpty());
  Hello();
  EXPECT_THAT(
      Done(),
      ElementsAre(
          "spend",
          R"(send {"op":2,"d":{"token":"to\"ken","properties":{"os":"linux","browser":"shardd","device":"shardd"},"large_threshold":50,"shard":[3,16],"intents":513}})"));
  EXPECT_EQ(state(), ShardState::kIdentifying);
  Ready("abc", 1, R"({"id":"1","unavailable":true},{"id":"2","unavailable":true})");
  EXPECT_THAT(Done(), ElementsAre("emit READY 1:1"));
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(protocol_->info().guilds, 2u);
  EXPECT_EQ(protocol_->info().identifies, 1u);
  EXPECT_EQ(protocol_->info().session, 1u);
  EXPECT_THAT(states_, ElementsAre(ShardState::kWaitingToIdentify, ShardState::kConnecting,
                                   ShardState::kIdentifying, ShardState::kReady));
}

TEST_F(ShardProtocolTest, IdentifyWaitsForItsSlotAndHeartbeatsMeanwhile) {
  Start();
  Admit(4s);
  Connect();
  Hello(1000);
  Done();
  AdvanceWithAcks(3999ms);
  EXPECT_GE(beats_, 3u);
  EXPECT_THAT(Done(), Not(::testing::Contains("spend")));
  Advance(1ms);
  EXPECT_THAT(Done(), ::testing::Contains("spend"));
}

TEST_F(ShardProtocolTest, SessionNumbersAreAboveTheFloor) {
  protocol_->SetSessionFloor(40);
  EXPECT_EQ(protocol_->info().session, 0u);
  BecomeReady();
  EXPECT_EQ(protocol_->info().session, 41u);
  Stop(false);
  BecomeReady();
  EXPECT_EQ(protocol_->info().session, 42u);
  Stop(false);
  protocol_->SetSessionFloor(50);
  EXPECT_EQ(protocol_->info().session, 42u);
  BecomeReady();
  EXPECT_EQ(protocol_->info().session, 51u);
}

TEST_F(ShardProtocolTest, DispatchesPassInOrderByteForByte) {
  BecomeReady();
  Event(2, "MESSAGE_CREATE", R"({"content":"h\u00e9","guild_id":"99"})");
  EXPECT_THAT(Done(), ElementsAre("emit MESSAGE_CREATE 1:2"));
  EXPECT_EQ(last_data_, R"({"content":"h\u00e9","guild_id":"99"})");
  EXPECT_EQ(last_guild_, 99u);
  EXPECT_EQ(protocol_->info().sequence, 2u);
  EXPECT_EQ(protocol_->info().events, 2u);
}

TEST_F(ShardProtocolTest, DoublesAreDroppedWithOneWarning) {
  BecomeReady();
  Event(2);
  Event(2);
  Event(1);
  Event(3);
  EXPECT_THAT(Done(), ElementsAre("emit X 1:2", "emit X 1:3"));
  EXPECT_EQ(warnings_.size(), 1u);
}

// ---- Sequences that jump ----

TEST_F(ShardProtocolTest, AGapIsFilledByResume) {
  BecomeReady();
  Event(2);
  Done();
  Event(5);
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl));
  EXPECT_THAT(reason(), HasSubstr("sequence 5 came after 2"));
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("seq":2})"));
  Done();
  for (uint64_t s = 3; s <= 5; ++s) Event(s);
  Resumed(6);
  EXPECT_THAT(Done(), ElementsAre("emit X 1:3", "emit X 1:4", "emit X 1:5", "emit RESUMED 1:6"));
}

TEST_F(ShardProtocolTest, AGapThatResumeDoesNotFillIsSaid) {
  BecomeReady();
  Event(2);
  Event(5);
  SendResume();
  Event(5);
  EXPECT_THAT(Done(), ElementsAre("lost 1:2 SEQUENCE_GAP: sequence 5 came after 2", "emit X 1:5"));
  Resumed(6);
  EXPECT_EQ(state(), ShardState::kReady);
  Event(7);
  EXPECT_THAT(Last(), "emit X 1:7");
}

TEST_F(ShardProtocolTest, AServerThatSkipsNumbersIsBelievedInTheEnd) {
  BecomeReady();
  uint64_t s = 1;
  for (int i = 0; i < 3; ++i) {
    AdvanceWithAcks(10s);
    Event(s += 2);
    SendResume();
    Event(s);
    Resumed(++s);
  }
  Done();
  for (int i = 0; i < 100; ++i) Event(s += 2);
  EXPECT_EQ(state(), ShardState::kReady);
  // It was said with the last of the three, and is not said for ever.
  EXPECT_THAT(Done(), ::testing::Each(StartsWith("emit X 1:")));
}

TEST_F(ShardProtocolTest, ANumberThatCannotBeDiscordsIsGarbageAndLeavesNoTrace) {
  BecomeReady();
  Event(2);
  Done();
  for (const uint64_t s : {uint64_t{5'000'000}, uint64_t{1} << 53, ~uint64_t{0}}) {
    Event(s);
    EXPECT_THAT(Done(), Not(::testing::Contains(StartsWith("emit"))));
    Advance(10s);
    Connect();
    Hello();
    EXPECT_THAT(Last(), HasSubstr(R"("seq":2})"));
    Event(2, "RESUMED");
    Done();
  }
  Event(3);
  EXPECT_THAT(Last(), "emit X 1:3");
}

TEST_F(ShardProtocolTest, UnknownOpcodesAndTypesPassWithoutHarm) {
  BecomeReady();
  for (const char* op : {"2", "6", "12", "99", "-5", "9007199254740993"}) {
    Receive(std::string(R"({"t":null,"s":null,"op":)") + op + R"(,"d":{"x":1}})");
  }
  Event(2, "A_TYPE_OF_TOMORROW", "[1,2]");
  Event(3, "Y", "null");
  EXPECT_THAT(Done(), ElementsAre("emit A_TYPE_OF_TOMORROW 1:2", "emit Y 1:3"));
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, ADispatchWithoutSequencePassesAndChangesNone) {
  BecomeReady();
  Event(2);
  Receive(R"({"t":"RATE_LIMITED","s":null,"op":0,"d":{}})");
  Receive(R"({"t":"RATE_LIMITED","op":0,"d":{}})");
  EXPECT_EQ(protocol_->info().sequence, 2u);
  Lose();
  Done();
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("seq":2})"));
}

TEST_F(ShardProtocolTest, FirstSequenceZeroDoesNoHarm) {
  Start();
  Admit();
  Connect();
  Hello();
  Ready("abc", 0);
  Done();
  Receive(R"({"op":1,"d":null})");
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":0})"));
  Event(1);
  EXPECT_THAT(Done(), ElementsAre("emit X 1:1"));
}

TEST_F(ShardProtocolTest, GuildsAreCounted) {
  Start();
  Admit();
  Connect();
  Hello();
  std::string guilds;
  for (int i = 1; i <= 2600; ++i) {
    guilds += (i > 1 ? "," : "") + std::string(R"({"id":")") + std::to_string(1000000000 + i) +
              R"(","unavailable":true})";
  }
  Ready("abc", 1, guilds);
  EXPECT_EQ(protocol_->info().guilds, 2600u);
  Event(2, "GUILD_CREATE", R"({"id":"1000000001"})");
  EXPECT_EQ(protocol_->info().guilds, 2600u);
  Event(3, "GUILD_CREATE", R"({"id":"5"})");
  EXPECT_EQ(protocol_->info().guilds, 2601u);
  Event(4, "GUILD_DELETE", R"({"id":"5","unavailable":true})");
  EXPECT_EQ(protocol_->info().guilds, 2601u);
  Event(5, "GUILD_DELETE", R"({"id":"5"})");
  EXPECT_EQ(protocol_->info().guilds, 2600u);
}

// ---- Heartbeats ----

TEST_F(ShardProtocolTest, TheFirstBeatComesWithinOneIntervalThenOneEach) {
  BecomeReady();
  AdvanceWithAcks(41250ms);
  EXPECT_EQ(beats_, 1u);
  AdvanceWithAcks(41250ms * 9);
  EXPECT_EQ(beats_, 10u);
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, BeatsCarryTheLastSequence) {
  Start();
  Admit();
  Connect();
  Hello();
  Done();
  Receive(R"({"t":null,"s":null,"op":1,"d":null})");
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":null})"));
  Ready("abc", 6);
  Event(7);
  Done();
  Receive(R"({"t":null,"s":null,"op":1,"d":null})");
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":7})"));
}

TEST_F(ShardProtocolTest, LatencyIsFromBeatToAck) {
  BecomeReady();
  Receive(R"({"op":1})");
  Advance(120ms);
  Ack();
  EXPECT_EQ(protocol_->info().latency, 120ms);
}

TEST_F(ShardProtocolTest, NoAckAndNoBytesIsAZombie) {
  BecomeReady(1000);
  Advance(1000ms);
  EXPECT_EQ(beats_, 1u);
  Done();
  Advance(1000ms);
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl));
  EXPECT_THAT(reason(), HasSubstr("heartbeats were not acknowledged"));
}

TEST_F(ShardProtocolTest, TrafficWithoutAcksCountsAsLifeForTwoIntervals) {
  BecomeReady(1000);
  uint64_t s = 2;
  while (beats_ == 0) Advance(10ms);
  for (int i = 0; i < 150; ++i) {
    Event(s++);
    Advance(10ms);
  }
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(beats_, 2u);
  for (int i = 0; i < 60; ++i) {
    Event(s++);
    Advance(10ms);
  }
  EXPECT_NE(state(), ShardState::kReady);
  EXPECT_THAT(reason(), HasSubstr("no ACK over two intervals"));
}

TEST_F(ShardProtocolTest, PartsOfPayloadsCountAsLife) {
  BecomeReady(1000);
  while (beats_ == 0) Advance(10ms);
  protocol_->BytesArrived();
  Advance(1000ms);
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, AnAnswerToOp1JustBeforeTheBeatIsNoZombie) {
  BecomeReady(1000);
  while (beats_ == 0) Advance(10ms);
  Ack();
  Advance(980ms);
  Receive(R"({"op":1})");
  Advance(30ms);
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, ANewConnectionStartsWithoutTheOldOnesMissingAck) {
  BecomeReady(1000);
  while (beats_ == 0) Advance(10ms);
  Lose();
  SendResume();
  Resumed(2);
  AdvanceWithAcks(200s);
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, AWorkerThatWasHeldUpDoesNotJudge) {
  BecomeReady(1000);
  while (beats_ == 0) Advance(10ms);
  SetTime(now_.steady + 10s);
  protocol_->Tick(now_);
  Collect();
  EXPECT_EQ(state(), ShardState::kReady);
  Ack();
  AdvanceWithAcks(10s);
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, AnAckTellsWhenItsHeartbeatWasSent) {
  BecomeReady();
  const SteadyTime begin = now_.steady;
  AskForBeat();
  Advance(10ms);
  AskForBeat();
  Advance(10ms);
  Ack();
  EXPECT_THAT(acks_, ElementsAre(begin));
  EXPECT_EQ(protocol_->info().latency, 20ms);
  Ack();
  EXPECT_THAT(acks_, ElementsAre(begin, begin + 10ms));
  EXPECT_EQ(protocol_->info().latency, 10ms);
  Ack();  // of nothing
  EXPECT_EQ(acks_.size(), 2u);
}

TEST_F(ShardProtocolTest, AHeartbeatFromBeforeReadyTellsNothing) {
  Start();
  Admit();
  Connect();
  Hello();
  AskForBeat();
  Ack();
  AskForBeat();
  Advance(1ms);
  Ready();
  Ack();
  EXPECT_THAT(acks_, IsEmpty());
  AskForBeat();
  Lose();
  SendResume();
  AskForBeat();
  Ack();
  AskForBeat();
  Advance(1ms);
  Resumed(2);
  Ack();
  EXPECT_THAT(acks_, IsEmpty());
  const SteadyTime sent = now_.steady;
  AskForBeat();
  Advance(1ms);
  Ack();
  EXPECT_THAT(acks_, ElementsAre(sent));
}

TEST_F(ShardProtocolTest, AServerThatLeavesOutAcksNeverMakesASessionLookFresher) {
  BecomeReady();
  std::vector<SteadyTime> sent;
  for (int i = 0; i < 1000; ++i) {
    sent.push_back(now_.steady);
    AskForBeat();
    SetTime(now_.steady + 1ms);
  }
  for (int i = 0; i < 1000; ++i) Ack();
  ASSERT_EQ(acks_.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) EXPECT_LE(acks_[i], sent[i]);
  const SteadyTime last = now_.steady;
  AskForBeat();
  Ack();
  EXPECT_EQ(acks_.back(), last);
}

TEST_F(ShardProtocolTest, AnExtraBeatGoesAtOnceAndOneAtATime) {
  Beat();
  Start();
  Admit();
  Connect();
  Hello();
  Beat();
  EXPECT_EQ(beats_, 0u);
  Ready("abc", 6);
  Done();
  const SteadyTime sent = now_.steady;
  Beat();
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":6})"));
  Advance(5ms);
  Beat();
  EXPECT_EQ(beats_, 1u);
  Ack();
  EXPECT_THAT(acks_, ElementsAre(sent));
  Beat();
  EXPECT_EQ(beats_, 2u);
  // What is lost with a connection is waited for no more.
  Lose();
  SendResume();
  Beat();
  EXPECT_EQ(beats_, 2u);
  Resumed(7);
  Beat();
  EXPECT_EQ(beats_, 3u);
}

TEST_F(ShardProtocolTest, AnExtraBeatWaitsForItsOwnAck) {
  BecomeReady();
  AskForBeat();
  Advance(1ms);
  Beat();
  Ack();
  Beat();
  EXPECT_EQ(beats_, 2u);
  Ack();
  Beat();
  EXPECT_EQ(beats_, 3u);
}

TEST_F(ShardProtocolTest, ABeatThatWasLeftOutIsNotWaitedFor) {
  BecomeReady();
  Beat();
  protocol_->HeartbeatLeftOut();
  Advance(10ms);
  const SteadyTime sent = now_.steady;
  Beat();
  EXPECT_EQ(beats_, 2u);
  Ack();
  EXPECT_THAT(acks_, ElementsAre(sent));
}

TEST_F(ShardProtocolTest, ExtraBeatsNeitherHideNorMakeAZombie) {
  BecomeReady(1000);
  Beat();
  Advance(1000ms);  // the first of the schedule
  EXPECT_EQ(state(), ShardState::kReady);
  Done();
  Beat();
  Advance(1000ms);
  EXPECT_THAT(reason(), HasSubstr("no ACK and no other traffic"));
}

TEST_F(ShardProtocolTest, HelloWithoutASensibleIntervalEndsTheConnection) {
  for (const char* d :
       {"null", "{}", R"({"heartbeat_interval":0})", R"({"heartbeat_interval":-5})",
        R"({"heartbeat_interval":3600001})", R"({"heartbeat_interval":"41250"})",
        R"({"heartbeat_interval":1e300})", R"({"heartbeat_interval":1e400})",
        R"({"heartbeat_interval":NaN})", R"({"heartbeat_interval":9.99})",
        R"({"heartbeat_interval":null})", R"({"heartbeat_interval":[41250]})", "[]", "5"}) {
    Use(ShardTimings{});
    Start();
    Admit();
    Connect();
    Done();
    Receive(std::string(R"({"op":10,"d":)") + d + "}");
    EXPECT_THAT(Done(), ElementsAre("close 4000", "leave gate")) << d;
    EXPECT_EQ(state(), ShardState::kBackingOff) << d;
  }
}

// ---- Timeouts ----

TEST_F(ShardProtocolTest, NoHello) {
  Start();
  Admit();
  Connect();
  Done();
  Advance(9999ms);
  EXPECT_THAT(Done(), IsEmpty());
  Advance(1ms);
  EXPECT_THAT(Done(), ElementsAre("close 4000", "leave gate"));
  EXPECT_EQ(state(), ShardState::kBackingOff);
  EXPECT_TRUE(protocol_->info().retry_at);
  Advance(500ms);
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
  EXPECT_FALSE(protocol_->info().retry_at);
}

TEST_F(ShardProtocolTest, IdentifyUnanswered) {
  Start();
  Admit();
  Connect();
  Hello();
  AdvanceWithAcks(59999ms);
  EXPECT_EQ(state(), ShardState::kIdentifying);
  AdvanceWithAcks(1ms);
  EXPECT_EQ(state(), ShardState::kBackingOff);
}

TEST_F(ShardProtocolTest, ResumeUnansweredThreeTimesLosesTheSession) {
  BecomeReady();
  Event(2);
  Lose();
  for (int attempt = 1; attempt <= 3; ++attempt) {
    EXPECT_EQ(state(), ShardState::kConnecting) << attempt;
    SendResume();
    AdvanceWithAcks(30s);
    if (attempt == 3) break;
    EXPECT_EQ(state(), ShardState::kBackingOff) << attempt;
    AdvanceWithAcks(2s);
  }
  EXPECT_THAT(Done(), ::testing::Contains(StartsWith("lost 1:2 it could not be resumed")));
  AdvanceWithAcks(5s);
  EXPECT_EQ(state(), ShardState::kWaitingToIdentify);
}

TEST_F(ShardProtocolTest, ALongReplayIsAnAnswer) {
  BecomeReady();
  Lose();
  SendResume();
  for (uint64_t s = 2; s < 12; ++s) {
    AdvanceWithAcks(20s);
    Event(s);
  }
  Resumed(12);
  EXPECT_EQ(state(), ShardState::kReady);
}

// ---- RESUME ----

TEST_F(ShardProtocolTest, ADropIsFollowedByResumeAtOnce) {
  BecomeReady();
  Event(2);
  Done();
  Lose();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
  Connect();
  Hello();
  EXPECT_THAT(Done(),
              ElementsAre(R"(send {"op":6,"d":{"token":"to\"ken","session_id":"abc","seq":2}})"));
  EXPECT_EQ(state(), ShardState::kResuming);
  Event(3);
  Resumed(4);
  EXPECT_THAT(Done(), ElementsAre("emit X 1:3", "emit RESUMED 1:4"));
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(protocol_->info().resumes, 1u);
  EXPECT_EQ(protocol_->info().identifies, 1u);
  Receive(R"({"op":1})");
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":4})"));
}

TEST_F(ShardProtocolTest, ReplayedDoublesAreDropped) {
  BecomeReady();
  Event(2);
  Event(3);
  Lose();
  SendResume();
  Event(2);
  Event(3);
  Event(4);
  Resumed(5);
  EXPECT_THAT(Done(), ElementsAre("emit X 1:4", "emit RESUMED 1:5"));
}

TEST_F(ShardProtocolTest, ResumedWithoutSequenceIsAccepted) {
  BecomeReady();
  Lose();
  SendResume();
  Receive(R"({"t":"RESUMED","s":null,"op":0,"d":null})");
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, AResumeAddressThatIsGoneFallsBackToTheMainOneAtOnce) {
  BecomeReady();
  Lose();
  Done();
  FailConnect();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl));
  FailConnect();
  EXPECT_EQ(state(), ShardState::kBackingOff);
  Advance(1s);
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl));
  SendResume();
  Resumed(2);
  AdvanceWithAcks(3s);
  Lose();
  EXPECT_THAT(Last(), std::string("connect ") + kResumeUrl);
}

TEST_F(ShardProtocolTest, ConnectFailuresDoNotCostTheSession) {
  BecomeReady();
  Lose();
  for (int i = 0; i < 20; ++i) {
    FailConnect();
    Advance(61s);
    EXPECT_EQ(state(), ShardState::kConnecting);
  }
  SendResume();
  Resumed(2);
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(protocol_->info().identifies, 1u);
}

TEST_F(ShardProtocolTest, ConnectionsThatEndBeforeResumeWasSentDoNotCostTheSession) {
  BecomeReady();
  Lose();
  for (int i = 0; i < 10; ++i) {
    Connect();
    Reconnect();
    Advance(61s);
    ASSERT_EQ(state(), ShardState::kConnecting);
  }
  SendResume();
  Resumed(2);
  EXPECT_EQ(protocol_->info().identifies, 1u);
}

TEST_F(ShardProtocolTest, AReplayThatIsCutAndGoesOnDoesNotCostTheSession) {
  BecomeReady();
  Lose();
  for (uint64_t s = 2; s < 12; ++s) {
    SendResume();
    Event(s);
    Lose();
    Advance(61s);
    ASSERT_EQ(state(), ShardState::kConnecting);
  }
  SendResume();
  Resumed(12);
  EXPECT_EQ(protocol_->info().identifies, 1u);
}

TEST_F(ShardProtocolTest, ARefusedResumeIdentifiesAfterOneToFiveSeconds) {
  BecomeReady();
  Event(2);
  Lose();
  SendResume();
  InvalidSession(false);
  EXPECT_THAT(Done(), ElementsAre("close 4000", "lost 1:2 op 9: session invalid"));
  EXPECT_EQ(state(), ShardState::kBackingOff);
  Advance(999ms);
  EXPECT_THAT(Done(), IsEmpty());
  Advance(4001ms);
  EXPECT_THAT(Done(), ElementsAre("enter gate to recover"));
  Admit();
  Connect();
  Hello();
  Done();
  // Nothing of the old session is left: neither sequence nor doubles.
  Receive(R"({"op":1})");
  EXPECT_THAT(Done(), ElementsAre(R"(send {"op":1,"d":null})"));
  Ready("def");
  Event(2);
  EXPECT_THAT(Done(), ElementsAre("emit READY 2:1", "emit X 2:2"));
}

TEST_F(ShardProtocolTest, ReadyInPlaceOfResumedIsANewSession) {
  BecomeReady();
  Event(2);
  Lose();
  SendResume();
  Ready("def");
  EXPECT_THAT(Done(), ElementsAre(StartsWith("lost 1:2"), "emit READY 2:1"));
  EXPECT_EQ(state(), ShardState::kReady);
}

TEST_F(ShardProtocolTest, AResumeAddressThatIsNoneIsNotUsed) {
  for (const char* url :
       {"", "ws://plain.example", "wss://user@evil", "file:///etc", "wss://a b"}) {
    Use(ShardTimings{});
    Start();
    Admit();
    Connect();
    Hello();
    Receive(
        std::string(R"({"t":"READY","s":1,"op":0,"d":{"session_id":"a","resume_gateway_url":")") +
        url + "\"}}");
    Done();
    Lose();
    EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl)) << url;
  }
}

TEST_F(ShardProtocolTest, ReadyWithoutSessionIdCannotBeResumed) {
  Start();
  Admit();
  Connect();
  Hello();
  Receive(R"({"t":"READY","s":1,"op":0,"d":{}})");
  Event(2);
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_THAT(Last(), "emit X 1:2");
  Done();
  Lose();
  EXPECT_THAT(Done(), ElementsAre(StartsWith("lost 1:2"), "enter gate to recover"));
}

// ---- Ends ----

TEST_F(ShardProtocolTest, Op7ResumesAtOnceEvenBeforeHello) {
  BecomeReady();
  Reconnect();
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl));
  Connect();
  Reconnect();
  EXPECT_EQ(state(), ShardState::kConnecting);  // the main address
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kMainUrl));
}

TEST_F(ShardProtocolTest, Op9TrueResumesAfterAPause) {
  BecomeReady();
  InvalidSession(true);
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  EXPECT_EQ(state(), ShardState::kBackingOff);
  Advance(5s);
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
}

TEST_F(ShardProtocolTest, Op9FalseOnALiveSessionIdentifies) {
  BecomeReady();
  InvalidSession(false);
  EXPECT_THAT(Done(), ElementsAre("close 4000", StartsWith("lost 1:1")));
  Advance(5s);
  EXPECT_THAT(Done(), ElementsAre("enter gate to recover"));
}

TEST_F(ShardProtocolTest, Op9OnIdentifyLosesNothingAndTriesAgain) {
  Start();
  Admit();
  Connect();
  Hello();
  Done();
  InvalidSession(false);
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  Advance(5s);
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
}

TEST_F(ShardProtocolTest, CodesThatKeepTheSessionResume) {
  for (const std::optional<uint16_t> code : std::vector<std::optional<uint16_t>>{
           std::nullopt, 1000, 1001, 1006, 1011, 4000, 4001, 4002, 4005, 4009, 4999}) {
    Use(ShardTimings{});
    BecomeReady();
    Close(code);
    EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
    if (code) {
      EXPECT_THAT(reason(), StartsWith(std::to_string(*code)));
    }
  }
}

TEST_F(ShardProtocolTest, RateLimitedResumesWhenItsWindowIsOver) {
  BecomeReady();
  Close(4008);
  EXPECT_EQ(state(), ShardState::kBackingOff);
  Advance(59999ms);
  EXPECT_THAT(Done(), IsEmpty());
  Advance(1ms);
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
}

TEST_F(ShardProtocolTest, CodesThatEndTheSessionIdentify) {
  for (const uint16_t code : {4003, 4006, 4007}) {
    Use(ShardTimings{});
    BecomeReady();
    Close(code);
    EXPECT_THAT(Done(), ElementsAre(StartsWith("lost 1:1 " + std::to_string(code)),
                                    "enter gate to recover"));
  }
}

TEST_F(ShardProtocolTest, CodesThatStopFailUntilStartedAgain) {
  for (const uint16_t code : {4004, 4010, 4011, 4012, 4013, 4014}) {
    Use(ShardTimings{});
    Start();
    Admit();
    Connect();
    Hello();
    Done();
    Close(code);
    EXPECT_EQ(state(), ShardState::kFailed);
    EXPECT_THAT(reason(), StartsWith(std::to_string(code) + ": "));
    Advance(24h);
    EXPECT_THAT(Done(), IsEmpty());
    Start();
    EXPECT_THAT(Done(), ElementsAre("enter gate"));
  }
}

TEST_F(ShardProtocolTest, GarbageEndsTheConnectionAndResumes) {
  BecomeReady();
  Receive("<html>");
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl));
  SendResume();
  protocol_->ReceivedGarbage("broken compression", now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  EXPECT_THAT(reason(), HasSubstr("broken compression"));
}

TEST_F(ShardProtocolTest, WhatThePreviousConnectionStillBringsIsIgnored) {
  BecomeReady();
  Lose();
  Done();
  Event(5);
  Close(4004);
  Lose();
  EXPECT_THAT(Done(), IsEmpty());
  EXPECT_EQ(state(), ShardState::kConnecting);
}

TEST_F(ShardProtocolTest, ConnectionsThatEndAtOnceBecomeSlower) {
  BecomeReady();
  Lose();
  std::chrono::milliseconds waited = 0ms;
  for (int i = 0; i < 6; ++i) {
    SendResume();
    Resumed(2 + i);
    Lose();
    const SteadyTime before = now_.steady;
    while (state() == ShardState::kBackingOff) Advance(1ms);
    waited += std::chrono::duration_cast<std::chrono::milliseconds>(now_.steady - before);
  }
  EXPECT_GT(waited, 2s);
  SendResume();
  Resumed(20);
  AdvanceWithAcks(3s);
  Lose();
  EXPECT_EQ(state(), ShardState::kConnecting);
}

// ---- Deaths ----

TEST_F(ShardProtocolTest, ThreeDeathsInFiveMinutesPauseForTwo) {
  Start();
  for (int death = 1; death <= 3; ++death) {
    FailIdentify();
    EXPECT_EQ(protocol_->info().restarts, static_cast<uint64_t>(death));
    if (death == 3) break;
    EXPECT_EQ(state(), ShardState::kBackingOff);
    while (state() == ShardState::kBackingOff) Advance(1s);
    EXPECT_TRUE(LastRestart());
  }
  EXPECT_EQ(state(), ShardState::kCrashLoop);
  EXPECT_THAT(Last(), StartsWith("crash loop 3 op 9"));
  EXPECT_EQ(protocol_->info().retry_at, now_.wall + 120s);
  const auto before = LastRestart();
  Done();
  Advance(119999ms);
  EXPECT_THAT(Done(), IsEmpty());
  // The pause is part of the restart: it has happened when it is over.
  EXPECT_EQ(LastRestart(), before);
  Advance(1ms);
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
  EXPECT_EQ(LastRestart(), now_.wall);
  // The window has not been cleared: the next death alerts again.
  FailIdentify();
  EXPECT_EQ(state(), ShardState::kCrashLoop);
  EXPECT_EQ(protocol_->info().restarts, 4u);
}

TEST_F(ShardProtocolTest, DeathsThatLieApartAreNoCrashLoop) {
  Start();
  for (int death = 1; death <= 10; ++death) {
    FailIdentify();
    EXPECT_EQ(state(), ShardState::kBackingOff);
    Advance(151s);
  }
  EXPECT_EQ(protocol_->info().restarts, 10u);
}

TEST_F(ShardProtocolTest, StartEndsThePauseOfACrashLoop) {
  DieThrice();
  Start();
  EXPECT_EQ(state(), ShardState::kWaitingToIdentify);
  EXPECT_THAT(Last(), "enter gate");
}

TEST_F(ShardProtocolTest, StopEndsACrashLoop) {
  DieThrice();
  Stop(false);
  EXPECT_EQ(state(), ShardState::kStopped);
  Done();
  Advance(1h);
  EXPECT_THAT(Done(), IsEmpty());
}

TEST_F(ShardProtocolTest, ASessionLostWithinAMinuteIsADeath) {
  BecomeReady();
  AdvanceWithAcks(59s);
  Close(4003);
  EXPECT_EQ(protocol_->info().restarts, 1u);
  Admit();
  Connect();
  Hello();
  Ready("second");
  AdvanceWithAcks(61s);
  Close(4003);
  EXPECT_EQ(protocol_->info().restarts, 1u);
}

TEST_F(ShardProtocolTest, ReadyAndLostAgainAndAgainIsACrashLoop) {
  BecomeReady();
  Close(4003);
  for (const char* session : {"second", "third"}) {
    Advance(5s);
    Admit();
    Connect();
    Hello();
    Ready(session);
    Close(4007);
  }
  EXPECT_EQ(state(), ShardState::kCrashLoop);
}

TEST_F(ShardProtocolTest, FailedConnectsAndResumesAndOperatorsAreNoDeaths) {
  Start();
  for (int i = 0; i < 10; ++i) {
    Admit();
    FailConnect();
    Advance(61s);
  }
  BecomeReady();
  for (int i = 0; i < 10; ++i) {
    Lose();
    Advance(61s);
    FailConnect();
    Advance(61s);
    SendResume();
    Resumed(2 + i);
  }
  Stop(true);
  Start();
  SendResume();
  Resumed(12);
  Stop(false);
  BecomeReady();
  Close(4014);
  BecomeReady();
  EXPECT_EQ(protocol_->info().restarts, 0u);
  EXPECT_FALSE(LastRestart());
}

TEST_F(ShardProtocolTest, AnExceptionIsADeathThatResumes) {
  BecomeReady();
  protocol_->Crashed("out of memory", now_);
  Collect();
  EXPECT_EQ(protocol_->info().restarts, 1u);
  EXPECT_EQ(Last(), std::string("connect ") + kResumeUrl);
  EXPECT_THAT(reason(), HasSubstr("out of memory"));
  for (int i = 0; i < 2; ++i) {
    protocol_->Crashed("out of memory", now_);
    Collect();
  }
  EXPECT_EQ(state(), ShardState::kCrashLoop);
  Advance(120s);
  EXPECT_THAT(Last(), StartsWith("connect "));
  EXPECT_TRUE(protocol_->has_session());
}

TEST_F(ShardProtocolTest, AWorkerThatStoodStillIsADeathThatResumes) {
  BecomeReady(1000);
  while (beats_ == 0) Advance(10ms);
  Done();
  SetTime(now_.steady + 40s);
  protocol_->Tick(now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl));
  EXPECT_EQ(protocol_->info().restarts, 1u);
}

TEST_F(ShardProtocolTest, WithoutRespawnTheDeadStayDead) {
  ProtocolOptions options;
  options.crash_guard.respawn = false;
  Use(options);
  Start();
  FailIdentify();
  EXPECT_EQ(state(), ShardState::kFailed);
  EXPECT_THAT(reason(), HasSubstr("--shard-respawn"));
  EXPECT_EQ(protocol_->info().restarts, 0u);
  Done();
  Advance(1h);
  EXPECT_THAT(Done(), IsEmpty());
  Start();
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
}

// ---- Session starts ----

TEST_F(ShardProtocolTest, IdentifyIsSentOnlyWhenTheGateGrantsIt) {
  grants_ = false;
  Start();
  Admit();
  Connect();
  Hello();
  EXPECT_THAT(Last(), "spend");
  protocol_->SessionStartLater(now_.steady + 3s, now_);
  Done();
  Advance(2999ms);
  EXPECT_THAT(Done(), IsEmpty());
  grants_ = true;
  Advance(1ms);
  EXPECT_THAT(Done(), ElementsAre("spend", StartsWith("send {\"op\":2")));
  EXPECT_EQ(protocol_->info().identifies, 1u);
}

TEST_F(ShardProtocolTest, ARefusedSessionStartWaitsInTheGateAgain) {
  grants_ = false;
  Start();
  Admit();
  Connect();
  Hello();
  Done();
  protocol_->SessionStartRefused(now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  EXPECT_EQ(state(), ShardState::kWaitingToIdentify);
  protocol_->SetWaitReason("all session starts are spent");
  EXPECT_THAT(reason(), "all session starts are spent");
  EXPECT_EQ(protocol_->info().identifies, 0u);
  grants_ = true;
  Admit();
  Connect();
  Hello();
  EXPECT_EQ(state(), ShardState::kIdentifying);
  EXPECT_EQ(protocol_->info().restarts, 0u);
}

// ---- Presence ----

TEST_F(ShardProtocolTest, ThePresenceGoesIntoEveryIdentify) {
  ProtocolOptions options;
  options.presence = R"({"status":"idle"})";
  Use(options);
  Start();
  Admit();
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("intents":513,"presence":{"status":"idle"}}})"));
  Ready();
  protocol_->SetPresence(R"({"status":"dnd"})");
  AdvanceWithAcks(90s);
  InvalidSession(false);
  Advance(5s);
  Admit();
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("presence":{"status":"dnd"}}})"));
}

TEST_F(ShardProtocolTest, APresenceThatIdentifyHasNoRoomForFollowsReady) {
  ProtocolOptions options;
  options.presence = R"({"status":")" + std::string(4060, 'x') + "\"}";
  Use(options);
  Start();
  Admit();
  Connect();
  Hello();
  EXPECT_THAT(Last(), Not(HasSubstr("presence")));
  Ready();
  EXPECT_THAT(Last(), StartsWith(R"(send {"op":3,"d":{"status":"xxx)"));
  Done();
  Lose();
  SendResume();
  Resumed(2);
  EXPECT_THAT(Done(), ElementsAre("emit RESUMED 1:2"));
}

// ---- Events over the bound ----

TEST_F(ShardProtocolTest, AnEventOverTheBoundIsSkippedAndSaid) {
  BecomeReady();
  Event(2);
  Done();
  protocol_->ReceivedOversize(R"({"t":"GUILD_CREATE","s":3,"op":0,"d":{"members":[)", now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre("skip GUILD_CREATE 3", "close 4000",
                                  std::string("connect ") + kResumeUrl));
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("seq":3})"));
}

TEST_F(ShardProtocolTest, WhatCannotBeMadeOutIsNotSkipped) {
  for (const char* beginning :
       {"", R"({"t":"X","s":4,"op":0,"d":{)", R"({"t":"X","s":2,"op":0,)", R"({"t":"X","s":3)",
        R"({"t":"X","s":3,"op":1,"d":)", R"({"d":{"t":"X","s":3,"op":0,)"}) {
    Use(ShardTimings{});
    BecomeReady();
    Event(2);
    Done();
    protocol_->ReceivedOversize(beginning, now_);
    Collect();
    EXPECT_THAT(Done(), ElementsAre("close 4000", std::string("connect ") + kResumeUrl))
        << beginning;
  }
}

// ---- Silence ----

TEST_F(ShardProtocolTest, ASilentShardIsToldAndResumedOnce) {
  BecomeReady();
  uint64_t s = 1;
  for (int i = 0; i < 3600; ++i) {
    AdvanceWithAcks(1s);
    Event(++s);
  }
  Done();
  AdvanceWithAcks(4min);
  EXPECT_THAT(Done(), Not(::testing::Contains("silence")));
  while (state() == ShardState::kReady) AdvanceWithAcks(1s);
  EXPECT_THAT(Done(), ::testing::Contains("silence"));
  EXPECT_THAT(reason(), HasSubstr("no event comes"));
  SendResume();
  Resumed(++s);
  AdvanceWithAcks(3h);
  EXPECT_THAT(Done(), Not(::testing::Contains("silence")));
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(protocol_->info().restarts, 0u);
}

TEST_F(ShardProtocolTest, RetriesBackOffWithJitterAndResetOnReady) {
  Start();
  std::vector<std::chrono::milliseconds> waits;
  for (int i = 0; i < 10; ++i) {
    Admit();
    FailConnect();
    const SteadyTime before = now_.steady;
    while (state() == ShardState::kBackingOff) Advance(1ms);
    waits.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(now_.steady - before));
  }
  EXPECT_LE(waits.front(), 500ms);
  EXPECT_GE(waits.back(), 30s);
  EXPECT_LE(waits.back(), 60s);
}

// ---- Start and Stop ----

TEST_F(ShardProtocolTest, StopInAnyStateIsImmediate) {
  const auto expect_stopped = [this] {
    EXPECT_EQ(state(), ShardState::kStopped);
    EXPECT_EQ(protocol_->deadline(), SteadyTime::max());
    Done();
    Advance(1h);
    EXPECT_THAT(Done(), IsEmpty());
  };
  Start();
  Stop(true);
  EXPECT_THAT(Done(), ElementsAre("enter gate", "leave gate"));
  expect_stopped();
  Start();
  Admit();
  Done();
  Stop(false);
  EXPECT_THAT(Done(), ElementsAre("leave gate", "close 1000"));
  expect_stopped();
  Start();
  Admit();
  Connect();
  Hello();
  Done();
  Stop(true);
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  expect_stopped();
  BecomeReady();
  InvalidSession(true);
  Done();
  Stop(true);
  EXPECT_THAT(Done(), IsEmpty());
  expect_stopped();
}

TEST_F(ShardProtocolTest, AKeptSessionIsResumedByStart) {
  BecomeReady();
  Event(2);
  Done();
  Stop(true);
  EXPECT_THAT(Done(), ElementsAre("close 4000"));
  EXPECT_TRUE(protocol_->has_session());
  Start();
  EXPECT_FALSE(protocol_->needs_session_start());
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
  Connect();
  Hello();
  EXPECT_THAT(Last(), HasSubstr(R"("seq":2})"));
}

TEST_F(ShardProtocolTest, AGivenUpSessionIsNotResumed) {
  BecomeReady();
  Stop(false);
  EXPECT_THAT(Done(), ElementsAre("close 1000"));
  Start();
  EXPECT_TRUE(protocol_->needs_session_start());
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
  Admit();
  Connect();
  Hello();
  Done();
  Ready("def");
  EXPECT_THAT(Done(), ElementsAre("emit READY 2:1"));
}

TEST_F(ShardProtocolTest, StoppingAgainWithoutKeepingGivesTheSessionUp) {
  BecomeReady();
  Stop(true);
  Stop(true);
  EXPECT_TRUE(protocol_->has_session());
  Stop(false);
  EXPECT_FALSE(protocol_->has_session());
}

TEST_F(ShardProtocolTest, StartWhileRunningChangesNothing) {
  BecomeReady();
  Start();
  EXPECT_THAT(Done(), IsEmpty());
  EXPECT_EQ(protocol_->info().restarts, 0u);
}

// ---- What outlives the process ----

TEST_F(ShardProtocolTest, TellsWhatALaterProcessNeedsInOrderWithTheEvents) {
  BecomeReady();
  Event(2);
  Receive(R"({"t":"X","op":0,"d":{}})");
  Lose();
  SendResume();
  Event(3);
  Resumed(4);
  InvalidSession(false);
  EXPECT_THAT(kept_, ElementsAre("open 1 abc at wss://gateway-us-east1-b.discord.gg with 513",
                                 "sequence 1:1", "sequence 1:2", "sequence 1:0", "sequence 1:3",
                                 "sequence 1:4", "end 1"));
}

TEST_F(ShardProtocolTest, ASessionThatStopGivesUpHasEnded) {
  BecomeReady();
  kept_.clear();
  Stop(/*keep_session=*/true);
  EXPECT_THAT(kept_, IsEmpty());
  Stop(/*keep_session=*/false);
  EXPECT_THAT(kept_, ElementsAre("end 1"));
  Stop(/*keep_session=*/false);
  EXPECT_THAT(kept_, ElementsAre("end 1"));
}

TEST_F(ShardProtocolTest, AReplacedSessionEndsBeforeTheNewOneOpens) {
  BecomeReady();
  Lose();
  SendResume();
  kept_.clear();
  Ready("def");
  EXPECT_THAT(kept_, ElementsAre("end 1", StartsWith("open 2 def"), "sequence 2:1"));
}

TEST_F(ShardProtocolTest, AReadyThatWasNotTakenOpensItsSessionAgain) {
  BecomeReady();
  protocol_->Unsettle(1, 1);
  Lose();
  SendResume();
  kept_.clear();
  Ready();
  EXPECT_THAT(kept_, ElementsAre(StartsWith("open 1 abc"), "sequence 1:1"));
}

TEST_F(ShardProtocolTest, ResumesTheSessionOfAnEarlierProcessFromItsSequence) {
  KeptShard kept = Kept();
  kept.session->guilds = {7, 8};
  UseKept(kept, kMain);
  EXPECT_EQ(state(), ShardState::kIdle);
  EXPECT_EQ(protocol_->info().guilds, 2u);
  EXPECT_EQ(protocol_->info().session, 5u);
  EXPECT_EQ(protocol_->info().sequence, 41u);
  EXPECT_TRUE(protocol_->info().last_event_at.has_value());
  Start();
  EXPECT_EQ(reason(), "started with the session of an earlier process");
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
  Connect();
  Hello();
  EXPECT_THAT(Done(),
              ElementsAre(R"(send {"op":6,"d":{"token":"to\"ken","session_id":"abc","seq":41}})"));
  Event(41);
  Event(42);
  Resumed(43);
  EXPECT_THAT(Done(), ElementsAre("emit X 5:42", "emit RESUMED 5:43"));
  EXPECT_EQ(state(), ShardState::kReady);
  EXPECT_EQ(protocol_->info().identifies, 0u);
}

TEST_F(ShardProtocolTest, ARefusedSessionOfAnEarlierProcessIsLostAndTheNextHasTheNextNumber) {
  UseKept(Kept(), kMain);
  Start();
  SendResume();
  InvalidSession(false);
  EXPECT_THAT(Done(), ElementsAre("close 4000", "lost 5:41 op 9: session invalid"));
  EXPECT_THAT(kept_, ElementsAre("end 5"));
  // It may have been days old: that it is gone is no death.
  EXPECT_EQ(protocol_->info().restarts, 0u);
  Advance(5s);
  EXPECT_THAT(Done(), ElementsAre("enter gate to recover"));
  Admit();
  Connect();
  Hello();
  Ready("def");
  EXPECT_THAT(Last(), "emit READY 6:1");
}

TEST_F(ShardProtocolTest, ASessionThatIsNotToBeResumedIsLostWithItsReason) {
  KeptShard kept = Kept();
  kept.give_up_because = "other intents";
  UseKept(kept, kMain);
  EXPECT_THAT(Done(), ElementsAre("lost 5:41 other intents"));
  EXPECT_THAT(kept_, ElementsAre("end 5"));
  Start();
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
}

TEST_F(ShardProtocolTest, WhatCannotBeAKeptSessionIsLost) {
  for (const std::string& id : {std::string(), std::string(257, 'x')}) {
    KeptShard kept = Kept();
    kept.session->id = id;
    UseKept(kept, kMain);
    EXPECT_THAT(Done(), ElementsAre(StartsWith("lost 5:41 what is kept of it")));
  }
}

TEST_F(ShardProtocolTest, AKeptResumeAddressIsCheckedAsReadysIs) {
  for (const char* url : {"", "ws://in.clear.text", "http://no.gateway", "nonsense"}) {
    KeptShard kept = Kept();
    kept.session->resume_url = url;
    UseKept(kept, kMain);
    Start();
    EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl)) << url;
  }
}

TEST_F(ShardProtocolTest, ANumberIsNotGivenTwiceWhereNoSessionIsLeft) {
  UseKept({.shard = {3, 16}, .last_session = 5}, kMain);
  Start();
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
  EXPECT_EQ(reason(), "started");
  Admit();
  Connect();
  Hello();
  Ready();
  EXPECT_EQ(Last(), "emit READY 6:1");
}

TEST_F(ShardProtocolTest, AStoppedShardOfAnEarlierProcessStaysStopped) {
  KeptShard kept = Kept();
  kept.is_stopped = true;
  UseKept(kept, kMain);
  EXPECT_EQ(state(), ShardState::kStopped);
  EXPECT_EQ(reason(), "stopped, session kept");
  Advance(1h);
  EXPECT_THAT(Done(), IsEmpty());
  Start();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
}

TEST_F(ShardProtocolTest, WithoutTheGatewaysAddressTheSessionsOwnIsTriedAgainAndAgain) {
  UseKept(Kept());
  Start();
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
    FailConnect();
    Advance(1min);
  }
  Done();
  protocol_->SetGatewayUrl(kMain, now_);
  FailConnect();
  Advance(1min);
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl));
}

TEST_F(ShardProtocolTest, WhatNeedsTheGatewaysAddressWaitsForIt) {
  KeptShard kept = Kept();
  kept.session->resume_url.clear();
  UseKept(kept);
  Start();
  EXPECT_EQ(state(), ShardState::kBackingOff);
  EXPECT_THAT(reason(), HasSubstr("/gateway/bot"));
  Advance(1h);
  EXPECT_THAT(Done(), IsEmpty());
  protocol_->SetGatewayUrl(kMain, now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kMainUrl));

  UseKept({.shard = {3, 16}, .last_session = 5});
  Start();
  EXPECT_EQ(state(), ShardState::kWaitingToIdentify);
  EXPECT_TRUE(protocol_->needs_session_start());
  protocol_->SetGatewayUrl(kMain, now_);
  Collect();
  EXPECT_THAT(Done(), ElementsAre("enter gate"));
}

TEST_F(ShardProtocolTest, AWrongTokenSaysNothingOfTheSession) {
  UseKept(Kept(), kMain);
  Start();
  SendResume();
  Close(4004);
  EXPECT_EQ(state(), ShardState::kFailed);
  EXPECT_THAT(Done(), IsEmpty());
  Start();
  EXPECT_THAT(Done(), ElementsAre(std::string("connect ") + kResumeUrl));
}

TEST_F(ShardProtocolTest, NoReasonEverHoldsTheToken) {
  BecomeReady();
  Close(4004);
  EXPECT_THAT(reason(), Not(HasSubstr("ken\"")));
}

}  // namespace
}  // namespace shardd::gateway
