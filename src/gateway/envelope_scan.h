#pragma once

#include <cstdint>
#include <string_view>

namespace shardd::gateway {

enum class ScanResult {
  kDone,
  kUnsure,  // not in the form that the scan knows, or malformed: a parser must decide
};

struct ObjectScan {
  size_t size = 0;  // of the object, with its braces
  std::string_view
      string;  // inside of the wanted key's value, if that is a string without escapes; else empty
  bool non_ascii = false;  // the object has bytes from 0x80 on, whose UTF-8 has not been checked
};

// Finds the end of the JSON object at the start of `text` and, at its top level, the value of the
// first key `wanted`, by 64 bytes at a time: masks of quotes, escapes and brackets, in the manner
// of simdjson's first stage (arXiv:1902.08318). It is exact on well-formed JSON: what it cannot be
// sure of (a key written with escapes, white space) is kUnsure. REQUIRES: 64 readable bytes behind
// `text`; text starts with '{'; `wanted` is plain ASCII.
ScanResult ScanObject(std::string_view text, std::string_view wanted, ObjectScan* scan);

}  // namespace shardd::gateway
