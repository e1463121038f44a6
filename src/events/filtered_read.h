#pragma once

#include <cstdint>

#include "events/filter.h"
#include "events/log.h"

namespace shardd::events {

// How many events one call examines: some tenth of a millisecond, so that one reader that is far
// behind keeps nobody waiting.
inline constexpr uint32_t kMaxExamined = 16 << 10;

// A run that nothing has been read into.
inline Run BeginRun(uint64_t position) {
  Run run;
  run.first = run.next = position;
  return run;
}

// Goes on where `run`, which BeginRun has begun, ends: adds what `filter` lets through as copies,
// up to the limits. Walks index entries alone, but for what matches. It has examined all there is
// where run.next is the log's end.
//
// `run.full`: the limits end it, or what comes next is missing, which the next run, begun at
// run.next, will say (Run::missing). REQUIRES: !run->full.
void ReadFiltered(const Log& log, const Filter& filter, const ReadLimits& limits, Run* run);

}  // namespace shardd::events
