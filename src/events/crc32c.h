#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace shardd::events {

// CRC-32C (Castagnoli, as in RFC 3720) of `bytes`; `seed` is the result for the bytes before them.
uint32_t Crc32c(const void* bytes, size_t size, uint32_t seed = 0);

// The same of eight little-endian words, for what is in registers anyway.
uint32_t Crc32cOfWords(const std::array<uint64_t, 8>& words, uint32_t seed);

}  // namespace shardd::events
