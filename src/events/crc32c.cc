#include "events/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <limits>

namespace shardd::events {

uint32_t Crc32c(const void* bytes, size_t size, uint32_t seed) {
  // ISA-L leaves the two inversions of the standard to the caller, takes an int for the size, and
  // does not write.
  auto* next = static_cast<unsigned char*>(const_cast<void*>(bytes));
  uint32_t crc = ~seed;
  while (size > 0) {
    const size_t part = std::min<size_t>(size, std::numeric_limits<int>::max());
    crc = crc32_iscsi(next, static_cast<int>(part), crc);
    next += part;
    size -= part;
  }
  return ~crc;
}

}  // namespace shardd::events
