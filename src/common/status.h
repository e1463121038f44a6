#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace shardd {

// Debian's Abseil has a string_view type of its own; ours is the standard's.
inline std::string_view Message(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

}  // namespace shardd
