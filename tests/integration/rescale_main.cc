// rescale_program SEED [FROM TO]: one run of scripts/rescale-bench. A server under load, first as
// it is, then with two generations side by side for a while, then the switch. What was found goes
// to standard output as one JSON object. Ends with 1 if anything is wrong.

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "support/rescale.h"

namespace shardd::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kRate = 5000;
constexpr seconds kPart{10};  // how long each state is measured
// No switch before the new shards have been there for so long: the overlap is measured meanwhile.
constexpr seconds kOverlap{20};
// How late each side may be, by its own: each has nodes and queues of its own at Discord's.
constexpr simulator::Lag kLag{milliseconds(0), milliseconds(20)};

struct Window {
  int64_t begin = 0;
  int64_t end = 0;  // nanoseconds since 1970
  bool Has(int64_t at) const { return at >= begin && at < end; }
};

boost::json::object Latencies(const RescaleReport& report, const Window& window) {
  std::vector<double> millis;
  for (const Delivery& delivery : report.deliveries) {
    if (!window.Has(delivery.emitted_unix_nanos)) continue;
    millis.push_back(
        static_cast<double>(delivery.arrived_unix_nanos - delivery.emitted_unix_nanos) / 1e6);
  }
  std::sort(millis.begin(), millis.end());
  const auto at = [&](double share) {
    if (millis.empty()) return 0.0;
    return millis[std::min(millis.size() - 1,
                           static_cast<size_t>(share * static_cast<double>(millis.size())))];
  };
  return {{"events", millis.size()}, {"p50_ms", at(0.5)}, {"p99_ms", at(0.99)}, {"max_ms", at(1)}};
}

// CPU time of the server for each event that the log got meanwhile.
double MicrosPerEvent(const std::vector<RescaleRun::Sample>& samples, const Window& window) {
  const RescaleRun::Sample* first = nullptr;
  const RescaleRun::Sample* last = nullptr;
  for (const auto& sample : samples) {
    if (!window.Has(sample.unix_nanos)) continue;
    if (first == nullptr) first = &sample;
    last = &sample;
  }
  if (first == nullptr || last->events == first->events) return 0;
  return 1e6 * (last->cpu_seconds - first->cpu_seconds) /
         static_cast<double>(last->events - first->events);
}

Window Measure() {
  Window window;
  window.begin = UnixNanosNow();
  std::this_thread::sleep_for(kPart);
  window.end = UnixNanosNow();
  return window;
}

int Main(uint64_t seed, uint32_t from, uint32_t to) {
  RescaleOptions options;
  options.rate = kRate;
  options.flags = {"--rescale-lag", std::to_string(kOverlap.count()) + "s", "--rescale-drain",
                   "2s"};
  options.discord.seed = seed;
  options.discord.guilds = 200;
  options.discord.equal_payloads = 0.03;
  options.discord.lags = {{from, kLag}, {to, kLag}};
  RescaleRun run(std::move(options));
  const auto fail = [&](const std::string& what) {
    std::cerr << what << ": " << run.Stats().rescale().reason() << "\n" << run.err();
    return 1;
  };
  if (!run.Start(from)) return fail("the shards did not come up");
  run.SetLoad(true);
  std::this_thread::sleep_for(seconds(2));
  const Window alone = Measure();

  if (run.Rescale(to).code != grpc::OK) return fail("it was refused");
  if (!run.WaitFor(v1::RESCALE_STATE_ALIGNING)) return fail("it did not come to ALIGNING");
  std::this_thread::sleep_for(seconds(2));
  const Window overlap = Measure();
  if (run.Stats().rescale().state() != v1::RESCALE_STATE_ALIGNING) {
    return fail("it did not stay in ALIGNING");
  }
  const v1::RescaleStatus aligned = run.Stats().rescale();
  if (!run.WaitFor(v1::RESCALE_STATE_DONE, 6 * kOverlap)) return fail("it did not come to DONE");
  std::this_thread::sleep_for(seconds(1));
  if (!run.Settle()) return fail("the consumer lacks events");
  const RescaleReport report = run.Compare();

  int64_t switched = 0;
  for (const auto& change : run.changes()) {
    if (change.state == "SWITCHED") switched = change.unix_nanos;
  }
  const Window around{switched - 1'000'000'000, switched + 1'000'000'000};
  const auto samples = run.samples();
  const double cpu_alone = MicrosPerEvent(samples, alone);
  const double cpu_overlap = MicrosPerEvent(samples, overlap);
  boost::json::array problems(report.problems.begin(), report.problems.end());
  problems.insert(problems.end(), report.reorderings.begin(), report.reorderings.end());
  const uint64_t wrong = report.lost + report.doubled + report.reordered + report.unknown +
                         report.altered + report.misplaced + report.gaps + report.offset_breaks;
  std::cout << boost::json::serialize(boost::json::object{
                   {"seed", seed},
                   {"from", from},
                   {"to", to},
                   {"rate", kRate},
                   {"guilds", 200},
                   {"seconds", kPart.count()},
                   {"overlap_s", kOverlap.count()},
                   {"lag_ms", kLag.max.count()},
                   {"events", report.events},
                   {"lost", report.lost},
                   {"doubled", report.doubled},
                   {"reordered", report.reordered},
                   {"other_differences", wrong - report.lost - report.doubled - report.reordered},
                   {"held_events", aligned.held_events()},
                   {"alone", Latencies(report, alone)},
                   {"overlap", Latencies(report, overlap)},
                   {"switch", Latencies(report, around)},
                   {"cpu_alone_us", cpu_alone},
                   {"cpu_overlap_us", cpu_overlap},
                   {"cpu_ratio", cpu_alone > 0 ? cpu_overlap / cpu_alone : 0},
                   {"problems", problems},
               })
            << "\n";
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace shardd::test

int main(int argc, char** argv) {
  if (argc != 2 && argc != 4) {
    std::cerr << "rescale_program SEED [FROM TO]\n";
    return 2;
  }
  const auto number = [&](int which) { return std::strtoull(argv[which], nullptr, 10); };
  const auto from = static_cast<uint32_t>(argc == 4 ? number(2) : 4);
  const auto to = static_cast<uint32_t>(argc == 4 ? number(3) : 8);
  return shardd::test::Main(number(1), from, to);
}
