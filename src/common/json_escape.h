#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace shardd {

// `text` as the inside of a JSON string (RFC 8259, section 7). Bytes from 0x80 on pass as they are.
inline std::string JsonEscape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      char code[7];
      std::snprintf(code, sizeof code, "\\u%04x", byte);
      out += code;
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace shardd
