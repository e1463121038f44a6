#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "events/segment.h"

namespace shardd::events {

// A thread that has the kernel bring in the pages which the log's writer comes to next: the first
// touch of one costs several times what the copy into it does, and on a disk that writes back it
// can wait for that. Signalling is cheap, and losing the race costs nothing but the faults.
class Preparer {
 public:
  Preparer();
  ~Preparer();

  // How far ahead of the writer the pages are asked for.
  static constexpr size_t kAheadBytes = size_t{8} << 20;

  // The writer is in this segment.
  void Signal(const std::shared_ptr<Segment>& segment);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Segment> next_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace shardd::events
