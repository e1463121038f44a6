#include "gateway/envelope_scan.h"

#include <bit>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace shardd::gateway {
namespace {

// Bit i stands for byte i of a block of 64.
struct Masks {
  uint64_t quote = 0;
  uint64_t backslash = 0;
  uint64_t open = 0;
  uint64_t close = 0;
  uint64_t control = 0;
  uint64_t high = 0;
};

#if defined(__SSE2__)

Masks Classify(const char* block) {
  Masks masks;
  for (int part = 0; part < 4; ++part) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16 * part));
    const auto put = [part](uint64_t* mask, __m128i where) {
      *mask |= static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(where)))
               << (16 * part);
    };
    // '[' and '{' differ in bit 0x20 alone, and so do ']' and '}'.
    const __m128i folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
    put(&masks.quote, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')));
    put(&masks.backslash, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
    put(&masks.open, _mm_cmpeq_epi8(folded, _mm_set1_epi8('{')));
    put(&masks.close, _mm_cmpeq_epi8(folded, _mm_set1_epi8('}')));
    put(&masks.control, _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes));
    put(&masks.high, bytes);
  }
  return masks;
}

#else

Masks Classify(const char* block) {
  Masks masks;
  for (int i = 0; i < 64; ++i) {
    const auto byte = static_cast<unsigned char>(block[i]);
    const uint64_t bit = uint64_t{1} << i;
    if (byte == '"') masks.quote |= bit;
    if (byte == '\\') masks.backslash |= bit;
    if ((byte | 0x20) == '{') masks.open |= bit;
    if ((byte | 0x20) == '}') masks.close |= bit;
    if (byte < 0x20) masks.control |= bit;
    if (byte >= 0x80) masks.high |= bit;
  }
  return masks;
}

#endif

// Bit i of the result: the parity of bits 0..i.
uint64_t PrefixXor(uint64_t bits) {
  bits ^= bits << 1;
  bits ^= bits << 2;
  bits ^= bits << 4;
  bits ^= bits << 8;
  bits ^= bits << 16;
  bits ^= bits << 32;
  return bits;
}

// The bytes that a backslash before them escapes; `carry` is 1 when the next block's first byte is
// one.
uint64_t EscapedBytes(uint64_t backslash, uint64_t* carry) {
  if (backslash == 0) {
    const uint64_t escaped = *carry;
    *carry = 0;
    return escaped;
  }
  uint64_t escaped = *carry;
  uint64_t rest = backslash & ~escaped;
  *carry = 0;
  while (rest != 0) {
    const int at = std::countr_zero(rest);
    rest &= rest - 1;
    if (at == 63) {
      *carry = 1;
      break;
    }
    escaped |= uint64_t{2} << at;
    rest &= ~(uint64_t{2} << at);
  }
  return escaped;
}

// The structure of one block after the other. Masks of what lies behind the text are cleared.
class BlockReader {
 public:
  explicit BlockReader(std::string_view text) : text_(text) {}

  struct Block {
    uint64_t quotes = 0;     // that begin and end strings
    uint64_t in_string = 0;  // with the opening quote, without the closing one
    uint64_t opens = 0;
    uint64_t closes = 0;
    uint64_t control = 0;
    uint64_t high = 0;
  };

  // REQUIRES: base < text.size(), and the blocks before have been read.
  Block Read(size_t base) {
    const Masks masks = Classify(text_.data() + base);
    const size_t left = text_.size() - base;
    const uint64_t inside_text = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    const uint64_t escaped = EscapedBytes(masks.backslash, &escape_carry_);
    const uint64_t quotes = masks.quote & ~escaped & inside_text;
    const uint64_t in_string = PrefixXor(quotes) ^ string_carry_;
    string_carry_ = static_cast<uint64_t>(static_cast<int64_t>(in_string) >> 63);
    return {.quotes = quotes,
            .in_string = in_string,
            .opens = masks.open & ~in_string & inside_text,
            .closes = masks.close & ~in_string & inside_text,
            .control = masks.control & inside_text,
            .high = masks.high & inside_text};
  }

 private:
  const std::string_view text_;
  uint64_t escape_carry_ = 0;
  uint64_t string_carry_ = 0;  // all ones while a string goes on into the next block
};

enum class KeyMatch { kNo, kYes, kUnsure };

// Whether the string whose opening quote is at `at` is the wanted key. Where it begins as the key
// does it is read to its end, which tells keys from values by the colon, and shows escapes.
KeyMatch MatchKey(std::string_view text, size_t at, std::string_view wanted, size_t* value_at) {
  const char first = text[at + 1];
  if (first != wanted[0] && first != '\\') return KeyMatch::kNo;
  bool escapes = false;
  size_t end = at + 1;
  while (end < text.size() && text[end] != '"') {
    if (text[end] == '\\') {
      escapes = true;
      ++end;
    }
    ++end;
  }
  if (end + 1 >= text.size()) return KeyMatch::kUnsure;
  if (text[end + 1] == ' ') return KeyMatch::kUnsure;
  if (text[end + 1] != ':') return KeyMatch::kNo;
  if (escapes) return KeyMatch::kUnsure;
  if (text.substr(at + 1, end - at - 1) != wanted) return KeyMatch::kNo;
  *value_at = end + 2;
  return KeyMatch::kYes;
}

// The inside of the string at `at`, or nothing if another kind of value stands there.
ScanResult ReadString(std::string_view text, size_t at, std::string_view* inside) {
  if (at >= text.size() || text[at] == ' ') return ScanResult::kUnsure;
  if (text[at] != '"') return ScanResult::kDone;
  const size_t end = text.find_first_of("\"\\", at + 1);
  if (end == text.npos || text[end] == '\\') return ScanResult::kUnsure;
  *inside = text.substr(at + 1, end - at - 1);
  return ScanResult::kDone;
}

}  // namespace

bool IsWithinMaxDepth(std::string_view text) {
  BlockReader reader(text);
  int64_t depth = 0;
  for (size_t base = 0; base < text.size(); base += 64) {
    const BlockReader::Block block = reader.Read(base);
    if (depth + std::popcount(block.opens) <= kMaxJsonDepth) {
      depth += std::popcount(block.opens) - std::popcount(block.closes);
      continue;
    }
    for (uint64_t stops = block.opens | block.closes; stops != 0; stops &= stops - 1) {
      depth += (block.opens & stops & -stops) != 0 ? 1 : -1;
      if (depth > kMaxJsonDepth) return false;
    }
  }
  return true;
}

ScanResult ScanObject(std::string_view text, std::string_view wanted, ObjectScan* scan) {
  BlockReader reader(text);
  int64_t depth = 0;
  bool found = false;
  for (size_t base = 0; base < text.size(); base += 64) {
    const BlockReader::Block block = reader.Read(base);
    const uint64_t opens = block.opens;
    const uint64_t closes = block.closes;
    if (block.control != 0) return ScanResult::kUnsure;
    // One level less than the payload has, which is around this object.
    if (depth + std::popcount(opens) >= kMaxJsonDepth) return ScanResult::kUnsure;

    // The whole block lies below the top level: its depth is all there is to know.
    if (depth - std::popcount(closes) > 1 || (found && depth - std::popcount(closes) > 0)) {
      depth += std::popcount(opens) - std::popcount(closes);
      if (block.high != 0) scan->non_ascii = true;
      continue;
    }

    uint64_t stops = opens | closes;
    if (!found) stops |= block.quotes & block.in_string;
    for (; stops != 0; stops &= stops - 1) {
      const int at = std::countr_zero(stops);
      const uint64_t bit = uint64_t{1} << at;
      if ((opens & bit) != 0) {
        ++depth;
      } else if ((closes & bit) != 0) {
        if (--depth == 0) {
          if ((block.high & (bit - 1)) != 0) scan->non_ascii = true;
          scan->size = base + static_cast<size_t>(at) + 1;
          return ScanResult::kDone;
        }
      } else if (depth == 1 && !found) {
        size_t value_at = 0;
        const KeyMatch match = MatchKey(text, base + static_cast<size_t>(at), wanted, &value_at);
        if (match == KeyMatch::kUnsure) return ScanResult::kUnsure;
        if (match == KeyMatch::kYes) {
          found = true;
          if (ReadString(text, value_at, &scan->string) == ScanResult::kUnsure) {
            return ScanResult::kUnsure;
          }
        }
      }
    }
    if (block.high != 0) scan->non_ascii = true;
  }
  return ScanResult::kUnsure;  // no end
}

}  // namespace shardd::gateway
