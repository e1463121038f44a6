#pragma once

#include <cstddef>
#include <cstdint>

namespace shardd::events {

// CRC-32C (Castagnoli, as in RFC 3720) of `bytes`; `seed` is the result for the bytes before them.
uint32_t Crc32c(const void* bytes, size_t size, uint32_t seed = 0);

}  // namespace shardd::events
