#pragma once

namespace shardd::gateway {

// Transport compression: https://discord.com/developers/docs/events/gateway#transport-compression.
enum class Compression { kNone, kZlibStream, kZstdStream };

}  // namespace shardd::gateway
