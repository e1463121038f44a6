#include "events/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <limits>

namespace shardd::events {
namespace {

// ISA-L's code for AVX leaves the upper halves of the vector registers in use, and then the next
// instruction for the lower halves alone takes longer than the checksum of a whole event.
void LeaveVectorMode() {
#if defined(__x86_64__)
  static const bool has_avx = __builtin_cpu_supports("avx") != 0;
  if (has_avx)
    asm volatile("vzeroupper" ::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#endif
}

}  // namespace

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
  LeaveVectorMode();
  return ~crc;
}

#if defined(__x86_64__)

namespace {

__attribute__((target("sse4.2"))) uint32_t ByInstruction(const std::array<uint64_t, 8>& words,
                                                         uint32_t seed) {
  uint64_t crc = ~seed;
  for (const uint64_t word : words) crc = __builtin_ia32_crc32di(crc, word);
  return ~static_cast<uint32_t>(crc);
}

}  // namespace

uint32_t Crc32cOfWords(const std::array<uint64_t, 8>& words, uint32_t seed) {
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  return has_instruction ? ByInstruction(words, seed) : Crc32c(words.data(), sizeof words, seed);
}

#else

uint32_t Crc32cOfWords(const std::array<uint64_t, 8>& words, uint32_t seed) {
  return Crc32c(words.data(), sizeof words, seed);
}

#endif

}  // namespace shardd::events
