// What single appends take on the thread that does them, by where the log lives.
//
// disk_bench DIR MB_PER_SECOND SECONDS PREPARE RETAIN_GIB: MB_PER_SECOND 0 is as fast as it goes;
// PREPARE is on, off (preparer.h), or write-back: on, and the kernel is asked ten times a second to
// begin writing what is dirty. Prints one JSON object. Makes and removes DIR/log.

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "common/status.h"
#include "events/log.h"
#include "events/round.h"

namespace shardd {
namespace {

constexpr size_t kDataBytes = 1200;
constexpr size_t kPerRound = 12;

using Clock = std::chrono::steady_clock;

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

int Run(const std::string& dir, double rate, double seconds, const std::string& prepare,
        uint64_t retain) {
  auto opened =
      events::Log::Open({.dir = dir, .retain_bytes = retain, .prepares_pages = prepare != "off"});
  if (!opened.ok()) {
    std::cerr << Message(opened.status()) << "\n";
    return 1;
  }
  const auto log = *std::move(opened);
  const std::string path = dir + "/log";
  std::jthread write_back([&](std::stop_token stop) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    while (prepare == "write-back" && !stop.stop_requested()) {
      ::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ::close(fd);
  });
  const std::string source(kDataBytes * 20'000, 'x');  // larger than the caches, as in life
  std::vector<float> all, waits;  // microseconds of each append, and of those that waited
  all.reserve(50'000'000 / kPerRound);
  float longest = 0;
  events::Round round;
  rusage before, after;
  getrusage(RUSAGE_THREAD, &before);
  const auto started = Clock::now();
  const auto until =
      started + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  uint64_t bytes = 0;
  for (uint64_t i = 0; Clock::now() < until; ++i) {
    const std::chrono::duration<double> due(rate > 0 ? static_cast<double>(bytes) / rate / 1e6 : 0);
    // Those that are behind go together, as after any sleep.
    while (Clock::now() - started < due) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (size_t j = 0; j < kPerRound; ++j) {
      const size_t piece = (i * kPerRound + j) % 20'000;
      round.Add({.shard = {.id = 3, .count = 16},
                 .session = 1,
                 .sequence = i * kPerRound + j + 1,
                 .guild_id = 197038439483310086,
                 .received_unix_nanos = 1'700'000'000'000'000'000,
                 .type = "MESSAGE_CREATE",
                 .data = std::string_view(source).substr(piece * kDataBytes, kDataBytes)});
    }
    bytes += round.bytes();
    rusage at_begin, at_end;
    getrusage(RUSAGE_THREAD, &at_begin);
    const auto begin = Clock::now();
    log->Append(round);
    const auto micros = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
    getrusage(RUSAGE_THREAD, &at_end);
    all.push_back(micros);
    // Other work on the machine took the core away; that is not the log's doing.
    if (at_end.ru_nivcsw != at_begin.ru_nivcsw) continue;
    longest = std::max(longest, micros);
    if (at_end.ru_nvcsw != at_begin.ru_nvcsw) waits.push_back(micros);
  }
  getrusage(RUSAGE_THREAD, &after);
  write_back = {};
  ::unlink(path.c_str());
  const double wall = std::chrono::duration<double>(Clock::now() - started).count();
  const auto appends = all.size();
  std::sort(all.begin(), all.end());
  std::sort(waits.begin(), waits.end());
  const auto at = [&](double share) {
    return all[std::min(appends - 1, static_cast<size_t>(share * static_cast<double>(appends)))];
  };
  const double events = static_cast<double>(appends * kPerRound);
  std::printf(
      R"({"mb_per_second":%.1f,"appends":%zu,"user_us_per_event":%.4f,"system_us_per_event":%.4f,)"
      R"("p50_us":%.1f,"p99_us":%.1f,"p999_us":%.1f,"max_us":%.1f,"max_not_preempted_us":%.1f,)"
      R"("waits":%zu,"longest_wait_us":%.1f,"faults":%ld})"
      "\n",
      static_cast<double>(bytes) / wall / 1e6, appends,
      (Seconds(after.ru_utime) - Seconds(before.ru_utime)) / events * 1e6,
      (Seconds(after.ru_stime) - Seconds(before.ru_stime)) / events * 1e6, at(0.5), at(0.99),
      at(0.999), all.back(), longest, waits.size(), waits.empty() ? 0 : waits.back(),
      after.ru_minflt - before.ru_minflt);
  return 0;
}

}  // namespace
}  // namespace shardd

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "disk_bench DIR MB_PER_SECOND SECONDS on|off|write-back RETAIN_GIB\n";
    return 2;
  }
  return shardd::Run(argv[1], std::atof(argv[2]), std::atof(argv[3]), argv[4],
                     std::strtoull(argv[5], nullptr, 10) << 30);
}
