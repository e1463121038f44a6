#include "gateway/silence_detector.h"

#include <cmath>

namespace shardd::gateway {
namespace {

// In units of the shortest silence: how often to look, how long to have observed before judging,
// and how far back the rate reaches.
constexpr int kLooks = 4;
constexpr int kLeastObserved = 2;
constexpr int kMemory = 12;

}  // namespace

void SilenceDetector::Begin(bool new_session, SteadyTime now) {
  if (shortest_.count() == 0) return;
  events_ = 0;
  last_event_ = now;
  sampled_at_ = new_session ? now + shortest_ : now;
  next_look_ = sampled_at_ + shortest_ / kLooks;
}

std::optional<SilenceDetector::Silence> SilenceDetector::Look(SteadyTime now) {
  if (now < next_look_) return std::nullopt;
  next_look_ = now + shortest_ / kLooks;
  if (events_ > 0) Sample(now);
  const std::chrono::duration<double> silent = now - last_event_;
  const double expected = rate_ * silent.count();
  const bool is_long = silent >= shortest_ && observed_ >= kLeastObserved * shortest_;
  if (reported_ || !is_long || expected < kExpectedEvents) return std::nullopt;
  reported_ = true;
  return Silence{std::chrono::duration_cast<std::chrono::milliseconds>(silent), expected};
}

// Only where events came, so that a silence does not talk down the rate that it is measured by;
// once it has ended it counts with its whole length.
void SilenceDetector::Sample(SteadyTime now) {
  const std::chrono::duration<double> passed = now - sampled_at_;
  const double rate = static_cast<double>(events_) / passed.count();
  const std::chrono::duration<double> memory = kMemory * shortest_;
  const double weight = observed_.count() == 0 ? 1 : 1 - std::exp(-(passed / memory));
  rate_ += (rate - rate_) * weight;
  observed_ += passed;
  sampled_at_ = now;
  events_ = 0;
}

}  // namespace shardd::gateway
