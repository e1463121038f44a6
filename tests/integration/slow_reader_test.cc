// Readers that stop for longer than the log keeps anything: they cost the others nothing, and the
// server next to nothing, and learn afterwards exactly what they have missed.

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>

#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/shardd_process.h"

namespace shardd {
namespace {

using simulator::Simulator;
using simulator::SimulatorOptions;
using test::Eventually;

constexpr uint64_t kRetainBytes = uint64_t{16} << 20;
// What a stalled stream may cost the server. The bytes that are on their way to it are at most a
// message (64 KiB), and leave the log's pages for memory of their own when the log goes round; the
// rest is gRPC's, a connection and a stream.
constexpr uint64_t kMostKibPerStalled = 256;

// A stream over a connection of its own that reads when it is told to.
class Subscriber {
 public:
  explicit Subscriber(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stub_ = v1::ShardControl::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    reader_ = stub_->Events(&context_, test::FromEarliest());
  }
  ~Subscriber() {
    context_.TryCancel();
    if (thread_.joinable()) thread_.join();
  }

  void Read() {
    thread_ = std::thread([this] {
      v1::EventBatch batch;
      while (reader_->Read(&batch)) {
        const uint64_t first = batch.events_size() > 0 ? batch.events(0).offset() : next_.load();
        if (received_ == 0) start_ = first;
        const uint64_t lost = batch.gap().lost_events();
        if (batch.has_gap()) ++gaps_;
        if (received_ > 0 && first != next_ + lost) wrong_ = true;
        lost_ += lost;
        if (batch.events_size() == 0) continue;
        received_ += static_cast<uint64_t>(batch.events_size());
        next_ = batch.events(batch.events_size() - 1).offset() + 1;
      }
      reader_->Finish().IgnoreError();
    });
  }

  uint64_t start() const { return start_; }  // offset of the first event
  uint64_t next() const { return next_; }    // offset behind the newest event
  uint64_t received() const { return received_; }
  uint64_t lost() const { return lost_; }
  uint64_t gaps() const { return gaps_; }
  bool wrong() const {
    return wrong_;
  }  // a gap is not what is missing, or something is without one

 private:
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::EventBatch>> reader_;
  std::atomic<uint64_t> start_ = 0;
  std::atomic<uint64_t> next_ = 0;
  std::atomic<uint64_t> received_ = 0;
  std::atomic<uint64_t> lost_ = 0;
  std::atomic<uint64_t> gaps_ = 0;
  std::atomic<bool> wrong_ = false;
  std::thread thread_;
};

class SlowReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SimulatorOptions options;
    options.guilds = 20;
    discord_ = std::make_unique<Simulator>(options);
    server_ = std::make_unique<test::ShardDProcess>(
        std::vector<std::string>{"--api-url", discord_->api_url(), "--listen", "127.0.0.1:0",
                                 "--admin-listen", "off", "--intents", "all", "--retain-bytes",
                                 std::to_string(kRetainBytes)},
        test::ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
    address_ = server_->address();
    ASSERT_NE(address_, "") << server_->err();
    stub_ = test::Connect(address_);
    ASSERT_TRUE(discord_->WaitForSessions(1, 1)) << server_->err();
    active_ = std::make_unique<Subscriber>(address_);
    active_->Read();
    // Until the log is full, and everything that the server takes for its work is there.
    while (Stats().log().bytes() < kRetainBytes * 9 / 10) Send(2000);
    SendRings(1);
  }

  v1::StatsResponse Stats() {
    grpc::ClientContext context;
    v1::StatsResponse stats;
    EXPECT_TRUE(stub_->Stats(&context, {}, &stats).ok());
    return stats;
  }

  // As fast as the active reader takes it.
  void Send(uint64_t events) {
    constexpr uint64_t kAtOnce = 500;
    for (uint64_t sent = 0; sent < events; sent += kAtOnce) {
      discord_->EmitTraffic(kAtOnce);
      emitted_ += kAtOnce;
      ASSERT_TRUE(Eventually([&] { return active_->received() + 4 * kAtOnce > emitted_; }))
          << active_->received() << " of " << emitted_ << "\n"
          << server_->err();
    }
    ASSERT_TRUE(Eventually([&] { return active_->received() >= emitted_; }));
  }

  // As many events as fill the log so many times. Returns how many a second reached the active
  // reader, in the best of several parts: other work on this machine is not meant.
  double SendRings(uint64_t rings) {
    constexpr uint64_t kParts = 8;
    const uint64_t part = rings * Stats().log().events() / kParts + 1;
    double best = 0;
    for (uint64_t i = 0; i < kParts; ++i) {
      const auto started = std::chrono::steady_clock::now();
      Send(part);
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started;
      best = std::max(best, static_cast<double>(part) / passed.count());
    }
    return best;
  }

  void Stall(size_t readers) {
    const auto before = static_cast<size_t>(Stats().subscribers_size());
    for (size_t i = 0; i < readers; ++i) {
      stalled_.push_back(std::make_unique<Subscriber>(address_));
    }
    ASSERT_TRUE(Eventually(
        [&] { return static_cast<size_t>(Stats().subscribers_size()) == before + readers; }));
  }

  // The stalled ones read again, up to where the active one is.
  void ExpectOneExactGapEach() {
    const uint64_t end = active_->next();
    for (auto& reader : stalled_) {
      reader->Read();
      ASSERT_TRUE(Eventually([&] { return reader->next() >= end; }));
      ASSERT_FALSE(reader->wrong());
      ASSERT_EQ(reader->gaps(), 1u);
      ASSERT_EQ(reader->start() + reader->received() + reader->lost(), reader->next());
    }
    EXPECT_FALSE(active_->wrong());
    EXPECT_EQ(active_->gaps(), 0u);
  }

  uint64_t AnonymousKib() { return server_->StatusKib("RssAnon"); }

  std::unique_ptr<Simulator> discord_;
  std::unique_ptr<test::ShardDProcess> server_;
  std::string address_;
  std::unique_ptr<v1::ShardControl::Stub> stub_;
  std::unique_ptr<Subscriber> active_;
  std::vector<std::unique_ptr<Subscriber>> stalled_;
  uint64_t emitted_ = 0;
};

TEST_F(SlowReaderTest, OneThatStopsForTheWholeLogCostsNobodyElseAnything) {
  const double without = SendRings(2);
  const uint64_t before = AnonymousKib();
  Stall(1);
  const double with = SendRings(2);
  const uint64_t after = AnonymousKib();
  std::cout << "anonymous memory: " << before << " KiB, then " << after
            << " KiB; events a second: " << without << ", then " << with << "\n";
  EXPECT_LT(after, before + 2048);
  EXPECT_GT(with, without / 2);
  ExpectOneExactGapEach();
}

TEST_F(SlowReaderTest, FiftyThatStopTakeAMessageEach) {
  constexpr size_t kReaders = 50;
  const double without = SendRings(2);
  const uint64_t before = AnonymousKib();
  Stall(kReaders);
  const double with = SendRings(1);
  const uint64_t after_one = AnonymousKib();
  SendRings(2);
  const uint64_t after = AnonymousKib();
  std::cout << "anonymous memory: " << before << " KiB, after one round of the log " << after_one
            << " KiB, after three " << after << " KiB; events a second: " << without << ", then "
            << with << "\n";
  EXPECT_LT(after, before + kReaders * kMostKibPerStalled);
  EXPECT_LT(after, after_one + 2048) << "it grows with what they miss";
  EXPECT_GT(with, without / 2);
  ExpectOneExactGapEach();
}

}  // namespace
}  // namespace shardd
