#include "simulator/limits.h"

#include <algorithm>

namespace shardd::simulator {
IdentifyLimits::IdentifyLimits(const Options& options)
    : options_(options),
      remaining_(options.remaining.value_or(options.total)),
      day_ends_(options.day_ends) {}

IdentifyLimits::Verdict IdentifyLimits::Admit(uint32_t shard_id, SteadyTime now) {
  Roll(now);
  const uint32_t bucket = shard_id % std::max<uint32_t>(options_.max_concurrency, 1);
  const auto last = last_by_bucket_.find(bucket);
  if (last != last_by_bucket_.end() && now - last->second < options_.window) {
    return Verdict::kTooEarly;
  }
  if (remaining_ == 0) return Verdict::kBudgetSpent;
  if (!day_ends_.has_value()) day_ends_ = now + options_.day;
  last_by_bucket_[bucket] = now;
  --remaining_;
  return Verdict::kAdmitted;
}

uint32_t IdentifyLimits::Remaining(SteadyTime now) {
  Roll(now);
  return remaining_;
}

std::chrono::milliseconds IdentifyLimits::ResetAfter(SteadyTime now) {
  Roll(now);
  if (!day_ends_.has_value()) return std::chrono::milliseconds(0);
  return std::chrono::ceil<std::chrono::milliseconds>(*day_ends_ - now);
}

void IdentifyLimits::Set(uint32_t remaining, std::optional<SteadyTime> day_ends) {
  remaining_ = remaining;
  if (day_ends.has_value()) day_ends_ = day_ends;
}

void IdentifyLimits::Roll(SteadyTime now) {
  if (!day_ends_.has_value() || now < *day_ends_) return;
  day_ends_.reset();
  remaining_ = options_.total;
}

bool SendWindow::Admit(SteadyTime now) {
  while (!sent_.empty() && now - sent_.front() >= window_) sent_.pop_front();
  if (sent_.size() >= limit_) return false;
  sent_.push_back(now);
  return true;
}

}  // namespace shardd::simulator
