#include "support/torture.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "simulator/simulator.h"
#include "support/event_stream.h"
#include "support/rotation_watch.h"
#include "support/shardd_process.h"
#include "support/temp_dir.h"
#include "support/torture_consumer.h"

namespace shardd::test {
namespace {

using simulator::SessionInfo;
using simulator::Simulator;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostProblems = 20;
constexpr const char* kCompressions[] = {"zstd-stream", "zlib-stream", "none"};
// The consumer may be this far behind; then the traffic waits for it, so that what this machine
// cannot do is not taken for a loss.
constexpr uint64_t kMostBehind = 8000;

class Torture {
 public:
  explicit Torture(const TortureOptions& options)
      : options_(options),
        random_(options.seed),
        discord_(DiscordOptions(options)),
        socket_("unix:" + (dir_ / "socket")),
        consumer_(socket_) {}

  TortureReport Run() {
    const auto started = Clock::now();
    for (uint32_t kill = 0; kill < options_.kills && report_.ok(); ++kill) {
      Start();
      const KillMoment moment = PickMoment(kill);
      WaitFor(moment);
      Kill();
      ++report_.kills[moment];
      if (Chance(50)) SleepUpto(milliseconds(200));
      if (options_.progress) options_.progress(kill + 1);
    }
    if (report_.ok()) Finish();
    report_.seconds = std::chrono::duration<double>(Clock::now() - started).count();
    consumer_.Stop();
    Compare();
    return std::move(report_);
  }

 private:
  static simulator::SimulatorOptions DiscordOptions(const TortureOptions& options) {
    simulator::SimulatorOptions discord;
    discord.seed = options.seed;
    discord.guilds = options.guilds;
    discord.rate = options.rate;
    discord.recommended_shards = options.shards;
    discord.max_concurrency = options.shards;
    // Often, and with time for a machine that has other work.
    discord.heartbeat_interval = milliseconds(1000);
    discord.heartbeat_tolerance = milliseconds(60'000);
    discord.record_digests = true;
    return discord;
  }

  void Complain(std::string problem) {
    if (report_.problems.size() < kMostProblems) report_.problems.push_back(std::move(problem));
  }
  bool Chance(uint32_t percent) { return random_() % 100 < percent; }
  void SleepUpto(milliseconds most) {
    const auto micros = std::chrono::microseconds(most).count();
    std::this_thread::sleep_for(
        std::chrono::microseconds(random_() % static_cast<uint64_t>(micros + 1)));
  }

  void Start() {
    resumes_before_.clear();
    for (const SessionInfo& session : discord_.Sessions()) {
      resumes_before_[session.session_id] = session.resumes;
    }
    started_ = Clock::now();
    server_ = std::make_unique<ShardDProcess>(
        std::vector<std::string>{
            "--api-url", discord_.api_url(), "--listen", socket_, "--admin-listen", "off",
            "--data-dir", dir_ / "data", "--retain-bytes", std::to_string(options_.retain_bytes),
            "--shard-count", std::to_string(options_.shards), "--intents", "all", "--threads", "2",
            "--compression", kCompressions[starts_++ % std::size(kCompressions)]},
        ShardDProcess::Variables{{"DISCORD_TOKEN", "token"}});
  }

  // Each in its share of any ten kills, in an order of chance.
  KillMoment PickMoment(uint32_t kill) {
    using enum KillMoment;
    if (kill == 0) return kBeforeReady;
    if (deck_.empty()) {
      deck_ = {kUnderLoad, kUnderLoad,     kUnderLoad,     kUnderLoad,  kAtStart,
               kAtStart,   kWhileResuming, kWhileResuming, kAtRotation, kAtRotation};
      std::shuffle(deck_.begin(), deck_.end(), random_);
    }
    const KillMoment moment = deck_.back();
    deck_.pop_back();
    return moment;
  }

  void WaitFor(KillMoment moment) {
    switch (moment) {
      case KillMoment::kBeforeReady:
        return SleepUpto(milliseconds(300));
      case KillMoment::kUnderLoad:
        WaitForShards();
        return SleepUpto(milliseconds(1500));
      case KillMoment::kAtStart:
        return SleepUpto(milliseconds(60));
      case KillMoment::kWhileResuming: {
        const uint64_t connections = discord_.counters().connections;
        discord_.WaitUntil([&] { return discord_.counters().connections > connections; });
        return SleepUpto(milliseconds(20));
      }
      case KillMoment::kAtRotation: {
        WaitForShards();
        const RotationWatch watch(dir_ / "data/log", options_.retain_bytes);
        if (!watch.Wait(std::chrono::seconds(10))) Complain("the log began no segment in 10 s");
        return;
      }
    }
  }

  void Kill() {
    if (server_->WaitForExit(milliseconds(0)).has_value()) {
      Complain("the server ended by itself: " + Tail(server_->err()));
    }
    server_->Signal(SIGKILL);
    server_->WaitForExit();
  }

  // Every shard has a session that this process has brought up or resumed.
  void WaitForShards() {
    const auto is_up = [&](const SessionInfo& session) {
      const auto before = resumes_before_.find(session.session_id);
      const bool is_new = before == resumes_before_.end() || session.resumes > before->second;
      return session.connected && session.guilds_sent && is_new;
    };
    bool resumed_all = true;
    const bool came_up = discord_.WaitUntil(
        [&] {
          const auto sessions = discord_.Sessions();
          std::set<uint32_t> up;
          resumed_all = true;
          for (const SessionInfo& session : sessions) {
            if (!session.alive || !is_up(session)) continue;
            up.insert(session.shard.id);
            if (!resumes_before_.contains(session.session_id)) resumed_all = false;
          }
          return up.size() == options_.shards;
        },
        std::chrono::seconds(30));
    if (!came_up) {
      Complain("not all shards came up within 30 s: " + Tail(server_->err()));
    } else if (resumed_all) {
      report_.recoveries.push_back(
          std::chrono::duration<double, std::milli>(Clock::now() - started_).count());
    }
    LetConsumerCatchUp();
  }

  // How many dispatches of sessions that it knows the consumer has not got yet.
  uint64_t Behind() const {
    uint64_t behind = 0;
    const auto counts = consumer_.counts();
    for (const SessionInfo& session : discord_.Sessions()) {
      const auto found = counts.find(session.session_id);
      if (found != counts.end() && session.sequence > found->second) {
        behind += session.sequence - found->second;
      }
    }
    return behind;
  }

  // REQUIRES: the shards are up.
  void LetConsumerCatchUp() {
    if (Behind() <= kMostBehind) return;
    discord_.SetRate(0);
    if (!Eventually([&] { return Behind() <= kMostBehind / 4; })) {
      Complain("the consumer stays " + std::to_string(Behind()) + " events behind");
    }
    discord_.SetRate(options_.rate);
  }

  void Finish() {
    Start();
    WaitForShards();
    discord_.SetRate(0);
    if (!Eventually([&] { return Behind() == 0; })) {
      Complain("the consumer lacks " + std::to_string(Behind()) + " events at the end");
    }
    consumer_.Stop();
    ReadLogAgain();
    server_->Signal(SIGTERM);
    if (server_->WaitForExit() != 0) Complain("no clean stop: " + Tail(server_->err()));
  }

  // What the log keeps is what the consumer got.
  void ReadLogAgain() {
    const auto& digests = consumer_.digests();
    const auto stub = Connect(socket_);
    EventStream stream(*stub, FromEarliest());
    stream.WaitFor([&](const EventStream::Batches& batches) {
      if (batches.empty()) return false;
      const auto last = std::find_if(batches.rbegin(), batches.rend(),
                                     [](const auto& batch) { return batch.events_size() > 0; });
      return last != batches.rend() &&
             last->events(last->events_size() - 1).offset() + 1 >= digests.size();
    });
    std::optional<uint64_t> next;
    for (const v1::Event& event : stream.events()) {
      const uint64_t offset = event.offset();
      if (offset >= digests.size()) break;
      if (offset != next.value_or(offset) ||
          digests[offset] != simulator::DigestOf(event.type(), event.data())) {
        ++report_.log_differs;
      }
      next = offset + 1;
    }
    report_.log_differs += digests.size() - std::min<uint64_t>(next.value_or(0), digests.size());
  }

  void Compare() {
    const TortureConsumer::Totals totals = consumer_.totals();
    const simulator::Counters counters = discord_.counters();
    report_.events = totals.events;
    report_.streams = totals.streams;
    report_.gaps = totals.gaps;
    report_.offset_breaks = totals.offset_breaks;
    report_.reordered = totals.guild_breaks;
    report_.sessions_lost = totals.sessions_lost;
    report_.identifies = counters.identifies;
    report_.resumes = counters.resumes;
    report_.resumes_refused = counters.resumes_refused;
    report_.behind_heartbeats = counters.resumes_behind_heartbeat;
    for (const auto& [key, session] : consumer_.sessions()) CompareSession(key, session);
    const auto counts = consumer_.counts();
    for (const SessionInfo& session : discord_.Sessions()) {
      if (!counts.contains(session.session_id)) ++report_.identifies_without_ready;
    }
    const uint64_t expected = options_.shards + report_.identifies_without_ready;
    if (counters.identifies > expected) report_.extra_identifies = counters.identifies - expected;
    std::sort(report_.recoveries.begin(), report_.recoveries.end());
    for (const auto& [name, figure] : std::initializer_list<std::pair<const char*, uint64_t>>{
             {"lost", report_.lost},
             {"doubled", report_.doubled},
             {"reordered", report_.reordered},
             {"altered", report_.altered},
             {"gaps", report_.gaps},
             {"breaks of the offsets", report_.offset_breaks},
             {"sessions lost", report_.sessions_lost},
             {"extra IDENTIFYs", report_.extra_identifies},
             {"refused RESUMEs", report_.resumes_refused},
             {"RESUMEs behind a heartbeat", report_.behind_heartbeats},
             {"events that read otherwise from the log", report_.log_differs}}) {
      if (figure > 0) Complain(std::to_string(figure) + " " + name);
    }
  }

  void CompareSession(const std::pair<uint32_t, uint32_t>& key,
                      const TortureConsumer::Received& received) {
    const std::string name =
        "shard " + std::to_string(key.first) + " session " + std::to_string(key.second);
    const auto sent = discord_.SentDigests(received.session_id);
    report_.dispatches += sent.size();
    std::vector<bool> seen(sent.size() + 1, false);
    uint64_t highest = 0;
    for (size_t i = 0; i < received.sequences.size(); ++i) {
      const uint64_t sequence = received.sequences[i];
      const std::string where = name + ", sequence " + std::to_string(sequence);
      if (sequence > sent.size()) {
        ++report_.altered;
        Complain(where + " was never sent");
        continue;
      }
      if (seen[sequence]) {
        ++report_.doubled;
        Complain(where + " came twice");
      } else if (sequence < highest) {
        ++report_.reordered;
        Complain(where + " came behind " + std::to_string(highest));
      }
      if (received.digests[i] != sent[sequence - 1]) {
        ++report_.altered;
        Complain(where + " is not what was sent");
      }
      seen[sequence] = true;
      highest = std::max(highest, sequence);
    }
    for (uint64_t sequence = 1; sequence <= sent.size(); ++sequence) {
      if (seen[sequence]) continue;
      ++report_.lost;
      Complain(name + ", sequence " + std::to_string(sequence) + " is lost");
    }
  }

  static std::string Tail(const std::string& text) {
    return text.size() <= 4000 ? text : text.substr(text.size() - 4000);
  }

  const TortureOptions options_;
  std::mt19937_64 random_;
  const TempDir dir_;
  Simulator discord_;
  const std::string socket_;
  TortureConsumer consumer_;
  std::unique_ptr<ShardDProcess> server_;
  std::vector<KillMoment> deck_;
  uint32_t starts_ = 0;
  Clock::time_point started_;
  std::map<std::string, uint32_t> resumes_before_;  // this process, by session
  TortureReport report_;
};

}  // namespace

const char* Name(KillMoment moment) {
  switch (moment) {
    case KillMoment::kBeforeReady:
      return "before the first READY";
    case KillMoment::kUnderLoad:
      return "under load";
    case KillMoment::kAtStart:
      return "within the first 60 ms";
    case KillMoment::kWhileResuming:
      return "while shards resume";
    case KillMoment::kAtRotation:
      return "when the log begins a segment";
  }
  return "";
}

TortureReport RunTorture(const TortureOptions& options) { return Torture(options).Run(); }

}  // namespace shardd::test
