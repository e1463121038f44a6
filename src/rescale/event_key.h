#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

namespace shardd::rescale {

// Bytes that must be readable behind every JSON text that is given to EventIdentifier (simdjson
// reads ahead).
inline constexpr size_t kJsonPadding = 64;

// What tells an event from others when it comes over two sessions. The same event has the same key
// in every process: keys are kept on disk.
struct EventKey {
  uint64_t high = 0;
  uint64_t low = 0;

  friend bool operator==(const EventKey&, const EventKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const EventKey& key) {
    return H::combine(std::move(h), key.high, key.low);
  }
};

// Whose order an event of a guild has: Discord makes these in different services, so two sessions
// may get them in a different order, and only within one is there an order to keep.
enum class Producer : uint8_t {
  kGuild = 0,
  kInteraction = 1,
};

enum class Matching : uint8_t {
  kNever,      // it belongs to the session that it came over
  kUnique,     // its key occurs once, ever
  kByContent,  // its key is that of every event with the same content
};

struct Identity {
  Matching matching = Matching::kNever;
  Producer producer = Producer::kGuild;
  EventKey key{};  // of type, guild and what the type's rule says (event_key.cc)
};

// Finds the identity of dispatches. It keeps memory for the largest payload seen.
// Thread-compatible.
class EventIdentifier {
 public:
  EventIdentifier();
  ~EventIdentifier();
  EventIdentifier(const EventIdentifier&) = delete;
  EventIdentifier& operator=(const EventIdentifier&) = delete;

  // `data` is the JSON of `d`, `guild_id` the event's guild, 0: none. `own_user` is the bot's own
  // id, whose VOICE_STATE_UPDATE belongs to the session; 0: not known.
  //
  // Content is the same whatever the order of keys in its objects, the white space between tokens
  // and the way in which strings are escaped; the order of arrays and the way in which numbers are
  // written count. What is no JSON or deeper than 128 is its bytes. REQUIRES: kJsonPadding readable
  // bytes behind `data`.
  Identity Identify(std::string_view type, std::string_view data, uint64_t guild_id,
                    uint64_t own_user);

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace shardd::rescale
