#pragma once

#include <chrono>
#include <cstdint>
#include <random>

namespace shardd {

struct BackoffOptions {
  std::chrono::milliseconds first{500};
  std::chrono::milliseconds longest{60'000};
};

// Delays between attempts: doubling from `first` up to `longest`, each drawn evenly from its upper
// half, so that many shards which failed together do not come back together. Thread-compatible.
class Backoff {
 public:
  explicit Backoff(BackoffOptions options, uint64_t seed = std::random_device{}());

  // The delay before the next attempt.
  std::chrono::milliseconds Next();

  // An attempt succeeded: the next failure starts from `first` again.
  void Reset() { attempts_ = 0; }

  uint32_t attempts() const { return attempts_; }

 private:
  BackoffOptions options_;
  uint32_t attempts_ = 0;
  std::mt19937_64 random_;
};

}  // namespace shardd
