#pragma once

#include <cstring>
#include <memory>
#include <string_view>

#include "gateway/envelope.h"

namespace shardd::gateway {

// A text with kJsonPadding bytes behind it and not one more, so that AddressSanitizer sees whatever
// is read beyond them. The padding holds what would mislead a reader that believes it.
class PaddedCopy {
 public:
  explicit PaddedCopy(std::string_view text)
      : size_(text.size()), bytes_(new char[text.size() + kJsonPadding]) {
    if (!text.empty()) std::memcpy(bytes_.get(), text.data(), text.size());
    for (size_t i = 0; i < kJsonPadding; ++i) bytes_[size_ + i] = "}\"]"[i % 3];
  }
  std::string_view view() const { return {bytes_.get(), size_}; }

 private:
  size_t size_;
  std::unique_ptr<char[]> bytes_;
};

}  // namespace shardd::gateway
