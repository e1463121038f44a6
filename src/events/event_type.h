#pragma once

#include <string_view>

namespace shardd::events {

// Event.type of a record, for where an index entry's hash is not enough; "" where the record does
// not hold one.
std::string_view TypeOf(std::string_view record);

// Types of what shardd itself has to say begin so.
inline constexpr std::string_view kOwnTypePrefix = "SHARDD_";

}  // namespace shardd::events
