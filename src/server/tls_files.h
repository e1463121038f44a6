#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shardd::server {

struct TlsKeyPair {
  std::string certificate_chain;  // PEM
  std::string private_key;        // PEM
};

// Reads --tls-cert and --tls-key. INVALID_ARGUMENT names the flag whose file cannot be read, holds
// no certificate or key, or does not belong to the other: gRPC would say none of it before the
// first handshake fails.
absl::StatusOr<TlsKeyPair> ReadTlsKeyPair(const std::string& certificate_path,
                                          const std::string& key_path);

}  // namespace shardd::server
