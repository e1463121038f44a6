#pragma once

#include <chrono>
#include <cstdint>

#include "events/log.h"

namespace shardd::server {

// How far a reader is behind.
struct ReaderLag {
  uint64_t events = 0;               // of the log, behind its position
  std::chrono::nanoseconds time{0};  // age of the oldest of them; 0: there is none
};

ReaderLag LagBehind(const events::Log& log, uint64_t position);

}  // namespace shardd::server
