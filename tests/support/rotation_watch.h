#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace shardd::test {

// Sees from outside when the log of a running server begins a segment, by what stands at the
// beginning of the slots of its file.
class RotationWatch {
 public:
  // `path` is of a log of so many `retain_bytes`. Without such a file it sees nothing.
  RotationWatch(const std::string& path, uint64_t retain_bytes);
  ~RotationWatch();
  RotationWatch(const RotationWatch&) = delete;
  RotationWatch& operator=(const RotationWatch&) = delete;

  // Returns within microseconds of the next one; false after `timeout`. Keeps a core busy.
  bool Wait(std::chrono::milliseconds timeout) const;

 private:
  uint64_t Sum() const;

  uint64_t slot_bytes_;
  uint64_t slots_ = 0;
  size_t size_ = 0;
  const uint8_t* memory_ = nullptr;
};

}  // namespace shardd::test
