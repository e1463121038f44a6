#pragma once

#include <cstdint>
#include <deque>
#include <memory>

#include "absl/status/statusor.h"
#include "events/log_file.h"
#include "events/segment.h"
#include "events/state.h"

namespace shardd::events {

// What an earlier process left in the file.
struct Recovered {
  std::unique_ptr<LogFile> file;              // set where its events are to move to another one
  std::deque<std::shared_ptr<Segment>> ring;  // by base offset
  State state;
};

// Reads every entry, and every record of the newest segment; the records of older ones are read
// when somebody calls Segment::Verify. Says in the log what it finds damaged.
// UNAVAILABLE: it cannot be mapped; it is left as it is.
absl::StatusOr<Recovered> Recover(LogFile& file);

// Otherwise its state builds on that of the segment before it.
bool BeginsWithState(const Segment& segment);

// Brings the state from the segment's beginning to its end.
void Replay(const Segment& segment, State* state);

}  // namespace shardd::events
