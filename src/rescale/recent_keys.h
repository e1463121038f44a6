#pragma once

#include <cstddef>
#include <deque>

#include "absl/container/flat_hash_set.h"
#include "rescale/event_key.h"

namespace shardd::rescale {

// The newest keys, to find one that comes again. Thread-compatible.
class RecentKeys {
 public:
  explicit RecentKeys(size_t most) : most_(most) {}

  // False: it is there already.
  bool Add(const EventKey& key) {
    if (!keys_.insert(key).second) return false;
    order_.push_back(key);
    if (order_.size() > most_) {
      keys_.erase(order_.front());
      order_.pop_front();
    }
    return true;
  }
  void Clear() {
    keys_.clear();
    order_.clear();
  }

 private:
  const size_t most_;
  absl::flat_hash_set<EventKey> keys_;
  std::deque<EventKey> order_;
};

}  // namespace shardd::rescale
