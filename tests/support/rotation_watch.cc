#include "support/rotation_watch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "events/log.h"
#include "events/log_file.h"

namespace shardd::test {

RotationWatch::RotationWatch(const std::string& path, uint64_t retain_bytes)
    : slot_bytes_(retain_bytes / events::kSegmentsInRing / events::LogFile::kPageBytes *
                  events::LogFile::kPageBytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  struct stat found {};
  ::fstat(fd, &found);
  size_ = static_cast<size_t>(found.st_size);
  void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) return;
  memory_ = static_cast<const uint8_t*>(memory);
  slots_ = (size_ - events::LogFile::kPageBytes) / slot_bytes_;
}

RotationWatch::~RotationWatch() {
  if (memory_ != nullptr) ::munmap(const_cast<uint8_t*>(memory_), size_);
}

// Of the magic words, which a segment loses first when its slot is used again.
uint64_t RotationWatch::Sum() const {
  uint64_t sum = 0;
  for (uint64_t slot = 0; slot < slots_; ++slot) {
    const uint8_t* begin = memory_ + events::LogFile::kPageBytes + slot * slot_bytes_;
    sum = sum * 31 + *reinterpret_cast<const volatile uint64_t*>(begin);
  }
  return sum;
}

bool RotationWatch::Wait(std::chrono::milliseconds timeout) const {
  if (memory_ == nullptr) return false;
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  const uint64_t before = Sum();
  while (std::chrono::steady_clock::now() < deadline) {
    if (Sum() != before) return true;
  }
  return false;
}

}  // namespace shardd::test
