#include "events/owner.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "events/crc32c.h"

namespace shardd::events {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

constexpr char kMagic[8] = {'S', 'H', 'D', 'O', 'W', 'N', 'E', 'R'};
constexpr uint32_t kVersion = 1;

// The file. Magic, version and size stay as they are in any format.
struct Claim {
  char magic[8] = {};
  uint32_t version = kVersion;
  OwnerKey key{};
  OwnerHash owner{};
  uint32_t crc = 0;  // CRC-32C of what stands before it
};
static_assert(sizeof(Claim) == 48 && std::is_trivially_copyable_v<Claim>);

uint32_t CrcOf(const Claim& claim) { return Crc32c(&claim, offsetof(Claim, crc)); }

absl::Status Failed(std::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat(std::string(what), " '", path, "': ", std::strerror(error)));
}

// "MTk4NjIyNDgz.Cl2FMQ.x" -> "198622483"; empty: not a token of Discord's.
std::string UserIdOf(std::string_view token) {
  const size_t dot = token.find('.');
  if (dot == std::string_view::npos) return "";
  std::string digits;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : token.substr(0, dot)) {
    constexpr std::string_view kAlphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) return "";
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    const char digit = static_cast<char>(bits >> count & 0xff);
    if (digit < '0' || digit > '9') return "";
    digits += digit;
  }
  return digits;
}

// Under another name first, and on the disk before it gets its own: a file that is there is whole.
absl::Status Make(const std::string& path, std::string_view token) {
  Claim claim;
  std::memcpy(claim.magic, kMagic, sizeof kMagic);
  claim.key = RandomOwnerKey();
  claim.owner = HashOwner(claim.key, token, "");
  claim.crc = CrcOf(claim);

  const std::string draft = path + ".new";
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return Failed("cannot make", draft, errno);
  absl::Status status;
  errno = 0;
  if (write(fd, &claim, sizeof claim) != sizeof claim || fsync(fd) != 0) {
    status = Failed("cannot write to", draft, errno == 0 ? ENOSPC : errno);
  }
  close(fd);
  if (status.ok() && rename(draft.c_str(), path.c_str()) != 0) {
    status = Failed("cannot make", path, errno);
  }
  if (!status.ok()) unlink(draft.c_str());
  return status;
}

}  // namespace

OwnerKey RandomOwnerKey() {
  OwnerKey key;
  std::random_device device;
  for (auto& byte : key) byte = static_cast<unsigned char>(device());
  return key;
}

OwnerHash HashOwner(const OwnerKey& key, std::string_view token, std::string_view scope) {
  std::string whose = UserIdOf(token);
  if (whose.empty()) whose = token;
  whose += '\n';
  whose += scope;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(whose.data()), whose.size(), digest, &size);
  OwnerHash owner{};
  std::memcpy(owner.data(), digest, owner.size());
  return owner;
}

absl::Status ClaimForBot(const std::string& path, std::string_view token) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? Make(path, token) : Failed("cannot open", path, errno);
  Claim claim;
  char beyond = 0;
  const ssize_t size = pread(fd, &claim, sizeof claim, 0);
  const bool is_longer = pread(fd, &beyond, 1, sizeof claim) == 1;
  const int error = errno;
  close(fd);
  if (size < 0) return Failed("cannot read", path, error);
  if (size != sizeof claim || is_longer || claim.crc != CrcOf(claim) ||
      std::memcmp(claim.magic, kMagic, sizeof kMagic) != 0) {
    // Whoever takes the directory may get another bot's sessions, so a person has to say so.
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "', which says whose --data-dir this is, is damaged: delete that file if the ",
        "directory is this bot's, or choose another --data-dir"));
  }
  if (claim.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", path, "' has format ", claim.version, ", and this version of shardd knows format ",
        kVersion, ": run the version that wrote it, or choose another --data-dir"));
  }
  if (claim.owner != HashOwner(claim.key, token, "")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the token is not of the bot that --data-dir belongs to, by '", path,
        "': give each bot a --data-dir of its own, or delete the directory if what it holds of "
        "the other bot is no longer wanted"));
  }
  return absl::OkStatus();
}

}  // namespace shardd::events
