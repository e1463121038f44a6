#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace shardd::test {

// Runs the real server under simulated load, kills it with SIGKILL again and again, and compares
// what one consumer got with all that the simulated Discord sent.
struct TortureOptions {
  uint32_t kills = 20;
  uint64_t seed = 1;   // of the traffic, and of when it is killed
  double rate = 4000;  // dispatches a second
  uint32_t shards = 4;
  uint32_t guilds = 60;
  // Small, so that the log goes round; the consumer keeps well within it.
  uint64_t retain_bytes = uint64_t{32} << 20;
  // Called after each kill, with how many there were.
  std::function<void(uint32_t)> progress{};
};

// When the server is killed.
enum class KillMoment {
  kBeforeReady,    // while its shards identify for the first time
  kUnderLoad,      // at any time after all shards have resumed
  kAtStart,        // within the first moments of the process
  kWhileResuming,  // right after it has connected to Discord
  kAtRotation,     // when the log begins a segment
};
const char* Name(KillMoment moment);

struct TortureReport {
  std::map<KillMoment, uint32_t> kills;
  double seconds = 0;
  uint64_t dispatches = 0;  // that Discord sent to sessions the log knows
  uint64_t events = 0;      // in the log, with the server's own
  uint64_t streams = 0;     // of the consumer that delivered something

  // ---- What must be 0 ----
  uint64_t lost = 0;
  uint64_t doubled = 0;
  uint64_t reordered = 0;  // within a session or a guild
  uint64_t altered = 0;    // came with other data, type or guild
  uint64_t gaps = 0;
  uint64_t offset_breaks = 0;      // holes and doubles of the consumer's offsets
  uint64_t sessions_lost = 0;      // SHARDD_SESSION_LOST
  uint64_t extra_identifies = 0;   // beyond one a shard and those below
  uint64_t resumes_refused = 0;    // by Discord
  uint64_t behind_heartbeats = 0;  // RESUMEs after a number that a heartbeat had gone beyond
  uint64_t log_differs = 0;        // events that read otherwise from the log at the end

  // A shard killed between IDENTIFY and the READY in the log.
  uint64_t identifies_without_ready = 0;
  uint64_t identifies = 0;
  uint64_t resumes = 0;
  // From the start of a process until its shards were all sent RESUMED; milliseconds, sorted.
  std::vector<double> recoveries;
  std::vector<std::string> problems;  // the first of what is wrong, in words

  bool ok() const { return problems.empty(); }
};

TortureReport RunTorture(const TortureOptions& options);

}  // namespace shardd::test
