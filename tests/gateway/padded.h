#pragma once

#include <string>
#include <string_view>

#include "gateway/envelope.h"

namespace shardd::gateway {

// Text with the readable bytes behind it that the JSON functions need; filled with what would
// mislead them.
class Padded {
 public:
  explicit Padded(std::string_view text) : size_(text.size()), bytes_(text) {
    for (size_t i = 0; i < kJsonPadding; ++i) bytes_ += "}\"]"[i % 3];
  }
  operator std::string_view() const { return std::string_view(bytes_).substr(0, size_); }

 private:
  size_t size_;
  std::string bytes_;
};

}  // namespace shardd::gateway
