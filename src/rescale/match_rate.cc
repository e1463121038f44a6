#include "rescale/match_rate.h"

namespace shardd::rescale {

MatchRate::Bucket& MatchRate::At(SteadyTime now) {
  const int64_t span = SpanOf(now);
  Bucket& bucket = buckets_[static_cast<size_t>(span) % kSpans];
  if (bucket.span != span) bucket = {.span = span};
  return bucket;
}

MatchRate::Bucket MatchRate::Sum(SteadyTime now) const {
  const int64_t span = SpanOf(now);
  Bucket sum;
  for (const Bucket& bucket : buckets_) {
    if (bucket.span < 0 || bucket.span <= span - static_cast<int64_t>(kSpans)) continue;
    sum.matched += bucket.matched;
    sum.unmatched += bucket.unmatched;
  }
  return sum;
}

uint64_t MatchRate::unmatched(SteadyTime now) const { return Sum(now).unmatched; }

double MatchRate::share(SteadyTime now) const {
  const Bucket sum = Sum(now);
  const uint64_t all = sum.matched + sum.unmatched;
  return all == 0 ? 0 : static_cast<double>(sum.unmatched) / static_cast<double>(all);
}

}  // namespace shardd::rescale
