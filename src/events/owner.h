#pragma once

#include <array>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace shardd::events {

// Says whose a file is without any part of a token in it: a keyed hash of the user id that
// Discord's tokens begin with, or of all of another kind of token. So it holds over a new token of
// the same bot.
using OwnerKey = std::array<unsigned char, 16>;
using OwnerHash = std::array<unsigned char, 16>;

OwnerKey RandomOwnerKey();
// `scope`: what else the file is for, such as one of several APIs.
OwnerHash HashOwner(const OwnerKey& key, std::string_view token, std::string_view scope);

// A data directory holds one bot's sessions and events, and another bot must neither resume nor
// read them. Makes the file at `path`, which says whose the directory is, where it is missing.
//   INVALID_ARGUMENT  the directory is another bot's, or nobody can say whose; the file is as it
//                     was
//   UNAVAILABLE       the file cannot be made or read
absl::Status ClaimForBot(const std::string& path, std::string_view token);

}  // namespace shardd::events
