#pragma once

#include <algorithm>
#include <vector>

#include "gateway/session_start_ledger.h"

namespace shardd::test {

// A ledger that outlives gates, as the file outlives processes.
class MemoryLedger final : public gateway::SessionStartLedger {
 public:
  Contents Load(SteadyTime) override {
    Contents contents{.complete = complete, .limits = limits, .starts = {}};
    for (size_t i = 0; i < starts.size(); ++i) {
      contents.starts.push_back(i < first_that_counts_ ? starts[i]
                                                       : std::max(starts[i], limits->asked_at));
    }
    return contents;
  }
  absl::Status WriteStart(uint32_t, SteadyTime now) override {
    if (broken) return absl::UnavailableError("the disk is gone");
    starts.push_back(now);
    return absl::OkStatus();
  }
  absl::Status WriteLimits(const gateway::SessionLimits& new_limits, uint64_t starts_since,
                           SteadyTime) override {
    if (broken) return absl::UnavailableError("the disk is gone");
    limits = new_limits;
    first_that_counts_ = starts.size() - starts_since;
    return absl::OkStatus();
  }

  bool complete = true;
  bool broken = false;
  std::vector<SteadyTime> starts;
  std::optional<gateway::SessionLimits> limits;

 private:
  size_t first_that_counts_ = static_cast<size_t>(-1);
};

}  // namespace shardd::test
