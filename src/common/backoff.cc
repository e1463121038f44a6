#include "common/backoff.h"

#include <algorithm>

namespace shardd {

Backoff::Backoff(BackoffOptions options, uint64_t seed) : options_(options), random_(seed) {}

std::chrono::milliseconds Backoff::Next() {
  // 2^20 times any sensible `first` is past any sensible `longest`, and does not overflow.
  const uint32_t doublings = std::min<uint32_t>(attempts_++, 20);
  const auto ceiling = std::min(options_.longest, options_.first * (int64_t{1} << doublings));
  std::uniform_int_distribution<int64_t> upper_half(ceiling.count() / 2, ceiling.count());
  return std::chrono::milliseconds(upper_half(random_));
}

}  // namespace shardd
