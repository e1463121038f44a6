#include "server/tls_files.h"

#include <openssl/ssl.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace shardd::server {
namespace {

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return std::move(text).str();
}

absl::Status Invalid(const char* flag, const std::string& path, const char* problem) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": '", path, "' ", problem));
}

}  // namespace

absl::StatusOr<TlsKeyPair> ReadTlsKeyPair(const std::string& certificate_path,
                                          const std::string& key_path) {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()),
                                                                  &SSL_CTX_free);
  if (context == nullptr) return absl::InternalError("OpenSSL has no memory for a TLS context");
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate_path.c_str()) != 1) {
    return Invalid("--tls-cert", certificate_path, "holds no PEM certificate that can be read");
  }
  if (SSL_CTX_use_PrivateKey_file(context.get(), key_path.c_str(), SSL_FILETYPE_PEM) != 1) {
    return Invalid(
        "--tls-key", key_path,
        "holds no PEM private key that can be read and fits the certificate of --tls-cert");
  }
  return TlsKeyPair{.certificate_chain = ReadText(certificate_path),
                    .private_key = ReadText(key_path)};
}

}  // namespace shardd::server
