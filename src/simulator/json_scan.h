#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// Reading JSON without changing a byte of it.
namespace shardd::simulator {

// The value of an object's member as its bytes stand in the text, without the white space around
// it; of several with this name the first. None where the text is no object or has no such member.
// `key` is compared as it is written, so it must need no escaping.
std::optional<std::string_view> MemberOf(std::string_view object, std::string_view key);

// The same JSON with the members of every object, however deep, in an order of `seed`'s: each key
// has its place by a hash, so one seed orders equal key sets alike. White space moves with the
// member that it stands at; members of one name keep their order, and everything but the order its
// bytes. Text that is no JSON, or is nested deeper than 256, comes back as it is.
std::string PermuteKeys(std::string_view json, uint64_t seed);

}  // namespace shardd::simulator
