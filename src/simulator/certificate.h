#pragma once

#include <string>

namespace shardd::simulator {

// A certificate for 127.0.0.1 and localhost, made for this process, and the authority that signed
// it; all PEM.
struct Certificate {
  std::string authority;
  std::string leaf;
  std::string key;
};

// Throws std::runtime_error with OpenSSL's reason.
Certificate MakeCertificate();

// A new file of mode 0600 in the temporary directory, removed on destruction. Thread-compatible.
class TemporaryFile {
 public:
  // Throws std::system_error.
  explicit TemporaryFile(const std::string& content);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace shardd::simulator
