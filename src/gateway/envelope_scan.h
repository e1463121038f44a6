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

// The most objects and arrays within each other that a payload may have, itself included. Discord's
// deepest are messages in messages with components, at about 20. Readers that recurse give up
// sooner than ours: Rust's serde_json takes 127 levels of `d`, Python's json about 1000.
inline constexpr int64_t kMaxJsonDepth = 128;

// Whether the JSON `text` is no deeper than that; of text that is not JSON it may say either.
// REQUIRES: 64 readable bytes behind `text`.
bool IsWithinMaxDepth(std::string_view text);

// Finds the end of the JSON object at the start of `text` and, at its top level, the value of the
// first key `wanted`, by 64 bytes at a time: masks of quotes, escapes and brackets, in the manner
// of simdjson's first stage (arXiv:1902.08318). It is exact on well-formed JSON: what it cannot be
// sure of (a key written with escapes, white space) is kUnsure, and so may be an object near or
// over the depth that is left to `d`. REQUIRES: 64 readable bytes behind `text`; text starts with
// '{'; `wanted` is plain ASCII.
ScanResult ScanObject(std::string_view text, std::string_view wanted, ObjectScan* scan);

}  // namespace shardd::gateway
