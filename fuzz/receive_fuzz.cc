// A shard's receive path, from WebSocket messages on: Inflater, EnvelopeReader, ShardProtocol. The
// input is a script of bytes, each of which is a thing that can happen to a shard; what the
// protocol then wants done is held against what it may ever want.

#include <zlib.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "check.h"
#include "gateway/inflater.h"
#include "gateway/protocol.h"
#include "padded_copy.h"

namespace shardd::gateway {
namespace {

using std::chrono::milliseconds;

constexpr size_t kBound = 20'000;
constexpr char kToken[] = "s3cret-token";
// What one input may lead to at once: an end with its consequences is the most.
constexpr size_t kMostActions = 16;

class Script {
 public:
  explicit Script(std::string_view bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint8_t Byte() {
    if (bytes_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(bytes_.front());
    bytes_.remove_prefix(1);
    return byte;
  }
  uint16_t Word() {
    const uint16_t low = Byte();
    return static_cast<uint16_t>(low | Byte() << 8);
  }
  // As many as the next byte says.
  std::string_view Bytes() {
    const size_t size = Byte();
    const std::string_view bytes = bytes_.substr(0, size);
    bytes_.remove_prefix(bytes.size());
    return bytes;
  }

 private:
  std::string_view bytes_;
};

// A shard without sockets, gate and clock.
class Driver {
 public:
  explicit Driver(uint8_t kind) {
    ProtocolOptions options;
    options.shard = {1, 2};
    options.token = kToken;
    options.compression = kind % 2 == 0 ? Compression::kZlibStream : Compression::kNone;
    options.crash_guard.respawn = kind % 4 < 2;
    options.seed = kind;
    compression_ = options.compression;
    protocol_ = std::make_unique<ShardProtocol>(options, &reader_);
    protocol_->SetGatewayUrl("wss://gateway.example", now_);
    if (kind % 8 < 4) return;
    // With what an earlier process has left.
    session_ = 5;
    last_sequence_ = kind;
    kept_ = Kept{.session = 5, .id = "a"};
    KeptShard kept{.shard = options.shard, .last_session = 5};
    kept.session = KeptSession{.id = "a", .resume_url = "wss://gateway-1.example"};
    kept.session->last_sequence = kind;
    protocol_->Restore(kept);
  }

  void Step(Script& script) {
    switch (script.Byte() % 26) {
      case 0:
        return Do([&] { protocol_->Start(now_); });
      case 1:
        return Do([&] { protocol_->Stop(/*keep_session=*/true, now_); });
      case 2:
        Do([&] { protocol_->Stop(/*keep_session=*/false, now_); });
        return last_sequence_.reset();
      case 3: {
        const milliseconds wait(script.Byte() * 100);
        if (!in_gate_ || admitted_) return;
        admitted_ = true;
        return Do([&] { protocol_->Admitted(now_.steady + wait, now_); });
      }
      case 4:
        if (connection_ != Connection::kConnecting) return;
        connection_ = Connection::kOpen;
        BeginStream();
        return Do([&] { protocol_->Connected(now_); });
      case 5:
        if (connection_ != Connection::kConnecting) return;
        connection_ = Connection::kNone;
        return Do([&] { protocol_->ConnectFailed("refused", now_); });
      case 6:  // until something is due, as Shard does
        if (protocol_->deadline() != SteadyTime::max()) {
          PassTime(std::max(protocol_->deadline() - now_.steady, SteadyClock::duration(0)));
        }
        return Do([&] { protocol_->Tick(now_); });
      case 7:
        PassTime(milliseconds(script.Word()));
        return Do([&] { protocol_->Tick(now_); });
      case 8: {
        const uint16_t code = script.Word();
        return Lose([&] { protocol_->Closed(code, now_); });
      }
      case 9:
        return Lose([&] { protocol_->Closed(std::nullopt, now_); });
      case 10:
        return Lose([&] { protocol_->ConnectionLost("reset", now_); });
      case 11:
        return Message(script.Bytes(), /*is_text=*/true);
      case 12:
        return Message(script.Bytes(), /*is_text=*/false);
      case 13:
        return Payload(std::string(script.Bytes()));
      case 14:
        return Payload(R"({"t":null,"s":null,"op":10,"d":{"heartbeat_interval":)" +
                       std::to_string(script.Word()) + "}}");
      case 15:
        return Payload(Dispatch("READY", script.Byte(),
                                R"({"session_id":")" + std::string(1, Letter(script)) +
                                    R"(","resume_gateway_url":"wss://gateway-1.example"})"));
      case 16:
        return Payload(Dispatch("MESSAGE_CREATE", script.Byte(), R"({"guild_id":"7"})"));
      case 17:
        return Payload(Dispatch("RESUMED", script.Byte(), "{}"));
      case 18:
        return Payload(R"({"op":7,"d":null})");
      case 19:
        return Payload(script.Byte() % 2 == 0 ? R"({"op":9,"d":false})" : R"({"op":9,"d":true})");
      case 20:
        return Payload(R"({"op":11})");
      case 21:
        return Payload(R"({"op":1,"d":null})");
      case 22:
        return Do([&] { protocol_->BytesArrived(); });
      case 23:
        return Payload(Dispatch("GUILD_CREATE", script.Byte(),
                                R"({"id":"7","x":")" + std::string(kBound, 'x') + "\"}"));
      case 24:
        // The next event, whatever its number is by now.
        return Payload(Dispatch("GUILD_DELETE", last_sequence_.value_or(0) + 1,
                                R"({"id":"7","unavailable":true})"));
      case 25:
        connection_ = Connection::kNone;
        return Do([&] { protocol_->Crashed("an exception", now_); });
    }
  }

 private:
  enum class Connection { kNone, kConnecting, kOpen };

  static char Letter(Script& script) { return static_cast<char>('a' + script.Byte() % 4); }
  static std::string Dispatch(std::string_view type, uint64_t sequence, std::string_view data) {
    return R"({"t":")" + std::string(type) + R"(","s":)" + std::to_string(sequence) +
           R"(,"op":0,"d":)" + std::string(data) + "}";
  }

  void PassTime(SteadyClock::duration time) {
    now_.steady += time;
    now_.wall += std::chrono::duration_cast<WallTime::duration>(time);
  }

  // ---- What comes in ----

  void BeginStream() {
    inflater_ = Inflater::Create(compression_, kBound);
    deflater_ = std::make_unique<Deflater>();
  }

  void Payload(const std::string& json) {
    if (connection_ != Connection::kOpen) return;
    if (compression_ == Compression::kNone) {
      Message(json, true);
    } else {
      Message(deflater_->Compress(json), false);
    }
  }

  void Message(std::string_view bytes, bool is_text) {
    if (connection_ != Connection::kOpen) return;
    const auto result = inflater_->Feed(bytes, is_text, &buffer_);
    switch (result) {
      case Inflater::Result::kMessage: {
        const PaddedCopy json(buffer_.view());
        return Do([&] { protocol_->Received(json.view(), now_); });
      }
      case Inflater::Result::kIncomplete:
        return Do([&] { protocol_->BytesArrived(); });
      case Inflater::Result::kTooLarge:
        return Do([&] { protocol_->ReceivedOversize(buffer_.view().substr(0, 1024), now_); });
      case Inflater::Result::kError:
        return Do([&] { protocol_->ReceivedGarbage("broken compression", now_); });
    }
  }

  template <class Function>
  void Lose(Function tell) {
    if (connection_ != Connection::kOpen) return;
    connection_ = Connection::kNone;
    Do(tell);
  }

  // ---- What comes out ----

  template <class Function>
  void Do(Function input) {
    input();
    CHECK_THAT(protocol_->actions().size() <= kMostActions);
    // By index, since answers to the gate's questions add more.
    for (size_t i = 0; i < protocol_->actions().size(); ++i) {
      Action action = std::move(protocol_->actions()[i]);
      std::visit([this](auto& a) { this->Take(a); }, action);
      CHECK_THAT(protocol_->actions().size() <= 2 * kMostActions);
    }
    protocol_->actions().clear();
    CHECK_THAT(!may_identify_);
    CHECK_THAT(!awaits_ready_);
    // A process that comes after this one knows of a session exactly where this one does.
    CHECK_THAT(protocol_->has_session() == (kept_ && !kept_->id.empty()));
    CHECK_THAT(protocol_->info().reason.find(kToken) == std::string::npos);
    // Nothing but the gate and the connecting is without an end of its own.
    if (protocol_->is_running() && !in_gate_ && connection_ != Connection::kConnecting) {
      CHECK_THAT(protocol_->deadline() != SteadyTime::max());
    }
  }

  void Take(const action::EnterGate&) {
    CHECK_THAT(!in_gate_);
    in_gate_ = true;
    admitted_ = false;
  }
  void Take(const action::LeaveGate&) {
    CHECK_THAT(in_gate_);
    in_gate_ = false;
  }
  void Take(const action::SpendSessionStart&) {
    CHECK_THAT(in_gate_ && admitted_ && connection_ == Connection::kOpen);
    switch (asked_++ % 4) {
      case 2:
        return protocol_->SessionStartLater(now_.steady + milliseconds(100), now_);
      case 3:
        admitted_ = false;
        return protocol_->SessionStartRefused(now_);
      default:
        may_identify_ = true;
        in_gate_ = false;
        return protocol_->SessionStartGranted(now_);
    }
  }
  void Take(const action::Connect&) {
    CHECK_THAT(connection_ == Connection::kNone);
    connection_ = Connection::kConnecting;
  }
  void Take(const action::Close& a) {
    CHECK_THAT(a.code == kCloseKeepingSession || a.code == kCloseEndingSession);
    connection_ = Connection::kNone;
  }
  void Take(const action::Send& a) {
    CHECK_THAT(connection_ == Connection::kOpen);
    CHECK_THAT(a.text.size() <= 4096);
    if (a.text.starts_with(R"({"op":2,)")) {
      CHECK_THAT(std::exchange(may_identify_, false));
    } else if (a.text.starts_with(R"({"op":6,)")) {
      CHECK_THAT(!in_gate_);
      CHECK_THAT(a.text.ends_with("\"seq\":" + std::to_string(last_sequence_.value_or(0)) + "}}"));
    } else if (a.is_heartbeat) {
      const std::string sequence = std::to_string(last_sequence_.value_or(0));
      const bool is_none = last_sequence_.value_or(0) == 0 && a.text == R"({"op":1,"d":null})";
      CHECK_THAT(is_none || a.text == R"({"op":1,"d":)" + sequence + "}");
    }
  }
  void Take(const action::OpenSession& a) {
    CHECK_THAT(!kept_ || kept_->session == a.session);
    CHECK_THAT(a.session >= session_);
    kept_ = Kept{.session = a.session, .id = a.id};
    awaits_ready_ = true;
  }
  void Take(const action::EndSession& a) {
    CHECK_THAT(kept_ && kept_->session == a.session);
    kept_.reset();
  }
  void Take(const action::EmitDispatch& a) {
    CHECK_THAT(!std::exchange(awaits_ready_, false) || a.dispatch.type == "READY");
    CHECK_THAT(kept_ && kept_->session == a.dispatch.session);
    CHECK_THAT(a.dispatch.session >= session_);
    CHECK_THAT(a.dispatch.type.size() <= 64 && !a.dispatch.type.empty());
    if (a.dispatch.session > session_) last_sequence_.reset();
    session_ = a.dispatch.session;
    NoteSequence(a.dispatch.sequence);
  }
  void Take(const action::SkipEvent& a) { NoteSequence(a.sequence); }
  void NoteSequence(uint64_t sequence) {
    // 0 also stands for a dispatch without a sequence.
    CHECK_THAT(sequence == 0 || !last_sequence_ || sequence > *last_sequence_);
    CHECK_THAT(sequence <= kMaxSequence);
    last_sequence_ = std::max(sequence, last_sequence_.value_or(0));
  }
  void Take(const action::LoseSession& a) {
    CHECK_THAT(a.session == session_);
    CHECK_THAT(a.last_sequence == last_sequence_.value_or(0));
    CHECK_THAT(a.reason.find(kToken) == std::string::npos);
    if (!a.reason.starts_with("SEQUENCE_GAP")) last_sequence_.reset();
  }
  void Take(const action::ChangeState&) {}
  void Take(const action::EnterCrashLoop&) {}
  void Take(const action::ReportAck& a) {
    // What is believed to have come by then must not be more than has.
    CHECK_THAT(connection_ == Connection::kOpen && a.sent <= now_.steady);
  }
  void Take(const action::ReportSilence&) {}
  void Take(const action::Warn& a) { CHECK_THAT(a.text.find(kToken) == std::string::npos); }

  // What the simulated server compresses with: one stream a connection.
  class Deflater {
   public:
    Deflater() { deflateInit2(&stream_, 1, Z_DEFLATED, 15, 8, Z_DEFAULT_STRATEGY); }
    ~Deflater() { deflateEnd(&stream_); }
    std::string Compress(std::string_view text) {
      std::string out(compressBound(text.size()) + 64, '\0');
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
      stream_.avail_in = static_cast<uInt>(text.size());
      stream_.next_out = reinterpret_cast<Bytef*>(out.data());
      stream_.avail_out = static_cast<uInt>(out.size());
      deflate(&stream_, Z_SYNC_FLUSH);
      out.resize(out.size() - stream_.avail_out);
      return out;
    }

   private:
    z_stream stream_{};
  };

  Now now_{SteadyTime(std::chrono::hours(1)), WallTime(std::chrono::hours(500'000))};
  Compression compression_;
  EnvelopeReader reader_;
  MessageBuffer buffer_;
  std::unique_ptr<Inflater> inflater_;
  std::unique_ptr<Deflater> deflater_;
  std::unique_ptr<ShardProtocol> protocol_;
  Connection connection_ = Connection::kNone;
  bool in_gate_ = false;
  bool admitted_ = false;
  bool may_identify_ = false;  // the gate has counted the start
  uint32_t asked_ = 0;
  uint32_t session_ = 0;
  std::optional<uint64_t> last_sequence_;
  struct Kept {
    uint32_t session = 0;
    std::string id;
  };
  std::optional<Kept> kept_;   // the session, as a later process would know it
  bool awaits_ready_ = false;  // it has been opened
};

}  // namespace
}  // namespace shardd::gateway

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardd::gateway;
  constexpr int kMostSteps = 400;
  Script script(std::string_view(reinterpret_cast<const char*>(data), size));
  Driver driver(script.Byte());
  for (int step = 0; step < kMostSteps && !script.empty(); ++step) driver.Step(script);
  return 0;
}
