// Prints what events cost (README.md).

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "events/crc32c.h"
#include "events/data_dir.h"
#include "events/filter.h"
#include "events/filtered_read.h"
#include "events/log.h"
#include "events/round.h"
#include "measure.h"
#include "rescale/event_key.h"
#include "server/log_sink.h"
#include "server/open_stream.h"
#include "server/rescale_parts.h"
#include "server/rescaler.h"
#include "server/shard_control_service.h"
#include "simulator/guilds.h"
#include "simulator/traffic.h"

namespace shardd {
namespace {

using bench::Print;
using bench::Repeat;
using bench::ThreadCpu;

constexpr size_t kDataBytes = 1200;

events::NewEvent EventWith(std::string_view data) {
  return {.shard = {.id = 3, .count = 16},
          .session = 1,
          .sequence = 4711,
          .guild_id = 197038439483310086,
          .received_unix_nanos = 1'700'000'000'000'000'000,
          .type = "MESSAGE_CREATE",
          .data = data};
}

// ---- The log ----

void BenchAppend() {
  // Source and ring larger than the caches, as in life.
  constexpr size_t kEvents = 100'000;
  constexpr size_t kPerRound = 12;
  constexpr uint64_t kRetain = uint64_t{64} << 20;
  const std::string source(kDataBytes * 20'000, 'x');
  const auto data = [&](size_t i) {
    return std::string_view(source).substr(i % 20'000 * kDataBytes, kDataBytes);
  };
  std::string target(kRetain, '\0');
  uint32_t sum = 0;
  const auto floor = [&] {
    const double start = ThreadCpu();
    size_t at = 0;
    for (size_t i = 0; i < kEvents; ++i) {
      if (at + kDataBytes > target.size()) at = 0;
      std::memcpy(target.data() + at, data(i).data(), kDataBytes);
      sum ^= events::Crc32c(target.data() + at, kDataBytes);
      at += kDataBytes;
    }
    return (ThreadCpu() - start) / kEvents * 1e6;
  };
  const auto log = *events::Log::Open({.retain_bytes = kRetain});
  events::Round round;
  const auto append = [&] {
    const double start = ThreadCpu();
    for (size_t i = 0; i < kEvents; ++i) {
      round.Add(EventWith(data(i)));
      if ((i + 1) % kPerRound == 0) log->Append(round);
    }
    log->Append(round);
    return (ThreadCpu() - start) / kEvents * 1e6;
  };
  floor();
  append();
  // Alternating, so that a change of the machine's pace meets both.
  std::vector<double> floors, ratios;
  const auto appends = Repeat([&] {
    floors.push_back(floor());
    const double figure = append();
    ratios.push_back(figure / floors.back());
    return figure;
  });
  Print("memcpy + CRC-32C of 1.2 KB", floors, "us/event");
  Print("append of 1.2 KB, 12 events a round", appends, "us/event");
  Print("append / (memcpy + CRC-32C)", ratios, "x");
  if (sum == 1) std::abort();  // or the compiler leaves the floor out

  const uint64_t end = log->end();
  Print("read at the end of the log", Repeat([&] {
          constexpr int kReads = 100'000;
          const double start = ThreadCpu();
          for (int i = 0; i < kReads; ++i) {
            if (!log->Read(end, {}).empty()) std::abort();
          }
          return (ThreadCpu() - start) / kReads * 1e6;
        }),
        "us/read");
}

// ---- Rescale ----

// What each event costs in an overlap to be told from others.
void BenchKeys() {
  constexpr size_t kEvents = 5000;
  const simulator::Guilds guilds({});
  simulator::Traffic traffic(guilds, 1);
  std::vector<std::pair<std::string, uint64_t>> messages;  // with their padding; and their guilds
  while (messages.size() < kEvents) {
    const auto event = traffic.Next();
    const size_t size = event->data.size();
    if (event->type != "MESSAGE_CREATE" || size < kDataBytes - 100 || size > kDataBytes + 100) {
      continue;
    }
    messages.emplace_back(event->data + std::string(rescale::kJsonPadding, ' '), event->guild_id);
  }
  rescale::EventIdentifier identifier;
  uint64_t sum = 0;
  const auto identify = [&](std::string_view type) {
    return Repeat([&] {
      const double start = ThreadCpu();
      for (const auto& [padded, guild] : messages) {
        const auto data = std::string_view(padded).substr(0, padded.size() - rescale::kJsonPadding);
        sum += identifier.Identify(type, data, guild, /*own_user=*/1).key.low;
      }
      return (ThreadCpu() - start) / kEvents * 1e6;
    });
  };
  Print("key of a message of 1.2 KB, by its id", identify("MESSAGE_CREATE"), "us/event");
  Print("key of a message of 1.2 KB, by its content", identify("MESSAGE_UPDATE"), "us/event");
  if (sum == 1) std::abort();
}

// ---- Filtered reading ----

void BenchFilter() {
  // Small events, so that what is measured is larger than the caches and made of little but index.
  constexpr size_t kEvents = 1'000'000;
  constexpr size_t kOneIn = 100;
  const auto log = *events::Log::Open({.retain_bytes = uint64_t{512} << 20});
  events::Round round;
  std::vector<events::IndexEntry> bare(kEvents);
  for (size_t i = 0; i < kEvents; ++i) {
    events::NewEvent event = EventWith("{}");
    if (i % kOneIn == 0) event.type = "INTERACTION_CREATE";
    event.guild_id += i % 5000 << 22;
    round.Add(event);
    if (round.bytes() > (128 << 10)) log->Append(round);
    bare[i].type_hash = events::TypeHash(event.type);
  }
  log->Append(round);
  if (log->oldest() != 0) std::abort();

  const auto walk = [&] {
    const double start = ThreadCpu();
    size_t found = 0;
    for (const events::IndexEntry& entry : bare) {
      found += entry.type_hash == bare.front().type_hash;
    }
    if (found != kEvents / kOneIn) std::abort();
    return kEvents / (ThreadCpu() - start) / 1e6;
  };
  const auto read = [&](const events::Filter& filter, size_t expected) {
    const double start = ThreadCpu();
    size_t found = 0;
    for (uint64_t at = 0; at < log->end();) {
      events::Run run = events::BeginRun(at);
      // As a stream does: a message of 64 KiB, or what there is.
      while (!run.full && run.next < log->end()) {
        events::ReadFiltered(*log, filter, {}, &run);
      }
      found += run.count;
      at = run.next;
    }
    if (found != expected) std::abort();
    return kEvents / (ThreadCpu() - start) / 1e6;
  };
  const auto measure = [&](const char* what, const events::FilterSpec& spec, size_t expected) {
    const auto filter = *events::Filter::Make(spec);
    walk();
    read(filter, expected);
    std::vector<double> walks, ratios;
    const auto reads = Repeat([&] {
      walks.push_back(walk());
      const double figure = read(filter, expected);
      ratios.push_back(walks.back() / figure);
      return figure;
    });
    Print("bare walk of 64-byte entries", walks, "M entries/s");
    Print(what, reads, "M entries/s");
    Print(std::string("bare walk / ") + what, ratios, "x");
  };
  measure("filtered read, 1 type, 1 in 100", {.types = {"INTERACTION_CREATE"}}, kEvents / kOneIn);
  measure("filtered read, partition of 100, 1 in 100",
          {.partition = events::Partition{.index = 7, .count = 100}}, kEvents / kOneIn);
}

// ---- Delivery ----

// Reads `subscribers` streams to their end, each over a connection of its own, without parsing.
void Subscribe(const std::string& address, int subscribers) {
  std::vector<std::thread> threads;
  for (int i = 0; i < subscribers; ++i) {
    threads.emplace_back([&] {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      grpc::GenericStub stub(
          grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
      grpc::ClientContext context;
      grpc::CompletionQueue queue;
      const auto wait = [&] {
        void* tag = nullptr;
        bool ok = false;
        return queue.Next(&tag, &ok) && ok;
      };
      auto call = stub.PrepareCall(&context, "/shardd.v1.ShardControl/Events", &queue);
      call->StartCall(nullptr);
      if (!wait()) return;
      grpc::Slice empty;
      call->WriteLast(grpc::ByteBuffer(&empty, 1), grpc::WriteOptions(), nullptr);
      wait();
      grpc::ByteBuffer message;
      do {
        call->Read(&message, nullptr);
      } while (wait());
      grpc::Status status;
      call->Finish(&status, nullptr);
      wait();
    });
  }
  for (auto& thread : threads) thread.join();
}

// The server's parts that deliver, without Discord.
class Delivery {
 public:
  Delivery()
      : log_(*events::Log::Open({.retain_bytes = uint64_t{256} << 20})),
        overlap_(*log_, {}),
        pool_({},
              [this] { return std::make_unique<server::LogSink>(*log_, overlap_, board_, [] {}); }),
        director_({}, pool_, *log_),
        consumers_(*events::Consumers::Open({.path = data_dir_->path() + "/consumers",
                                             .ttl = std::chrono::hours(1),
                                             .clock = &clock_})),
        retention_(*log_, *consumers_, fan_out_),
        rescale_parts_(pool_, director_, overlap_, *log_, board_, carry_over_),
        rescaler_({.clock = &clock_, .tick = {}}, rescale_parts_, [] {}),
        stats_("bench", uint64_t{256} << 20, director_, *log_, nullptr, *consumers_, retention_,
               rescaler_, fan_out_),
        service_(director_, pool_, rescaler_, carry_over_, *log_, nullptr, *consumers_, stats_,
                 board_, fan_out_, 1000) {
    log_->SetListener([this] { fan_out_.Signal(); });
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    grpc_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }

  ~Delivery() {
    grpc_->Shutdown(std::chrono::system_clock::now());
    service_.WaitForStreams(SteadyTime::max());
    fan_out_.Stop();
  }

  const std::string& address() const { return address_; }
  events::Log& log() { return *log_; }

  int subscribers() const { return static_cast<int>(fan_out_.waiters().size()); }

  uint64_t longest_lag() const {
    uint64_t lag = 0;
    for (const auto& waiter : fan_out_.waiters()) {
      v1::Subscriber subscriber;
      dynamic_cast<const server::OpenStream&>(*waiter).Describe(subscriber);
      lag = std::max(lag, subscriber.lag_events());
    }
    return lag;
  }

 private:
  const std::unique_ptr<events::Log> log_;
  server::FanOut fan_out_;
  server::ShardBoard board_;
  server::Overlap overlap_;
  gateway::ShardPool pool_;
  server::ShardDirector director_;
  const RealClock clock_;
  const std::unique_ptr<events::DataDir> data_dir_ = *events::DataDir::MakeTemporary();
  const std::unique_ptr<events::Consumers> consumers_;
  server::RetentionWatch retention_;
  server::CarryOver carry_over_;
  server::PoolRescaleParts rescale_parts_;
  server::Rescaler rescaler_;
  server::StatsSource stats_;
  server::ShardControlService service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::string address_;
};

// The kernel's part that nobody can do without: the same bytes through a socket, 64 KiB at a time.
class BareSocket {
 public:
  BareSocket() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 1) != 0 ||
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::abort();
    }
    port_ = ntohs(address.sin_port);
  }
  ~BareSocket() {
    ::close(socket_);
    ::close(listener_);
  }

  uint16_t port() const { return port_; }
  void Accept() { socket_ = ::accept(listener_, nullptr, nullptr); }

  // CPU time per event in microseconds.
  double Send(size_t events) {
    constexpr size_t kPiece = 64 << 10;
    const size_t pieces = events * kRecordBytes / kPiece;
    const double start = ThreadCpu();
    for (size_t i = 0; i < pieces; ++i) {
      const char* piece = bytes_.data() + i * kPiece % bytes_.size();
      for (size_t sent = 0; sent < kPiece;) {
        const ssize_t now = ::send(socket_, piece + sent, kPiece - sent, 0);
        if (now <= 0) std::abort();
        sent += static_cast<size_t>(now);
      }
    }
    return (ThreadCpu() - start) / static_cast<double>(events) * 1e6;
  }

  // In the other process: takes what comes, to the end.
  static void Drain(uint16_t port) {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return;
    std::string buffer(256 << 10, '\0');
    while (::read(socket, buffer.data(), buffer.size()) > 0) {
    }
    ::close(socket);
  }

 private:
  static constexpr size_t kRecordBytes = kDataBytes + 90;  // with the event's other fields

  const int listener_;
  int socket_ = -1;
  uint16_t port_ = 0;
  const std::string bytes_ = std::string(64 << 20, 'x');  // larger than the caches, as the log is
};

// CPU time per delivered event in microseconds, without the appending thread's.
struct Cost {
  double user = 0;
  double kernel = 0;

  double total() const { return user + kernel; }
};

Cost CpuBut(int who_not) {
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  rusage all, part;
  getrusage(RUSAGE_SELF, &all);
  getrusage(who_not, &part);
  return {.user = seconds(all.ru_utime) - seconds(part.ru_utime),
          .kernel = seconds(all.ru_stime) - seconds(part.ru_stime)};
}

Cost Deliver(Delivery& delivery, int subscribers, size_t events, size_t per_round,
             std::chrono::microseconds pause) {
  const std::string data(kDataBytes, 'x');
  events::Round round;
  const Cost before = CpuBut(RUSAGE_THREAD);
  for (size_t done = 0; done < events; done += per_round) {
    for (size_t i = 0; i < per_round; ++i) round.Add(EventWith(data));
    delivery.log().Append(round);
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    // Far from being overtaken by the log.
    while (done % (per_round * 16) == 0 && delivery.longest_lag() > 20'000) {
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
  }
  while (delivery.longest_lag() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const Cost after = CpuBut(RUSAGE_THREAD);
  const double scale = 1e6 / static_cast<double>(events) / subscribers;
  return {.user = (after.user - before.user) * scale,
          .kernel = (after.kernel - before.kernel) * scale};
}

void MeasureDelivery(Delivery& delivery, BareSocket& socket, int subscribers) {
  const std::string to = " to " + std::to_string(subscribers);
  const size_t events = 800'000 / static_cast<size_t>(subscribers + 3);
  Deliver(delivery, subscribers, events, 256, {});
  std::vector<double> bare, ratios, kernels;
  const auto backlogs = Repeat([&] {
    bare.push_back(socket.Send(events));
    const Cost cost = Deliver(delivery, subscribers, events, 256, {});
    ratios.push_back(cost.total() / bare.back());
    kernels.push_back(cost.kernel);
    return cost.total();
  });
  Print("send() of 1.2 KB, 64 KiB at a time", bare, "us/event");
  Print("backlog" + to, backlogs, "us/delivered event");
  Print("backlog" + to + ", in the kernel", kernels, "us/delivered event");
  Print("backlog" + to + " / send()", ratios, "x");
  Print("live" + to, Repeat([&] {
          return Deliver(delivery, subscribers, 2000, 5, std::chrono::milliseconds(1)).total();
        }),
        "us/delivered event");
}

void BenchDelivery(int subscribers) {
  int to_child[2];
  if (pipe(to_child) != 0) std::abort();
  // Before this process has threads of gRPC's.
  const pid_t parent = fork();
  if (parent > 0) {
    close(to_child[0]);
    close(to_child[1]);
    waitpid(parent, nullptr, 0);
    return;
  }
  struct Addresses {
    char server[64] = {};
    uint16_t bare_port = 0;
  } addresses;
  const pid_t child = fork();
  if (child == 0) {
    close(to_child[1]);
    pthread_setname_np(pthread_self(), "subscribers");
    if (read(to_child[0], &addresses, sizeof addresses) == sizeof addresses) {
      std::thread drain(&BareSocket::Drain, addresses.bare_port);
      Subscribe(addresses.server, subscribers);
      drain.join();
    }
    _exit(0);
  }
  {
    BareSocket socket;
    Delivery delivery;
    pthread_setname_np(pthread_self(), "append");
    delivery.address().copy(addresses.server, sizeof addresses.server - 1);
    addresses.bare_port = socket.port();
    if (write(to_child[1], &addresses, sizeof addresses) < 0) std::abort();
    socket.Accept();
    while (delivery.subscribers() < subscribers) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    MeasureDelivery(delivery, socket, subscribers);
  }
  waitpid(child, nullptr, 0);
  _exit(0);
}

void Bench(const std::string& what) {
  if (what == "append") return BenchAppend();
  if (what == "filter") return BenchFilter();
  if (what == "keys") return BenchKeys();
  if (what.starts_with("delivery-")) return BenchDelivery(std::stoi(what.substr(9)));
  std::exit(2);
}

}  // namespace
}  // namespace shardd

// shardd_bench [--json] [append] [filter] [delivery-SUBSCRIBERS]...
int main(int argc, char** argv) {
  std::vector<std::string> wanted(argv + 1, argv + argc);
  if (std::erase(wanted, "--json") > 0) shardd::bench::PrintJson();
  if (wanted.empty()) {
    wanted = {"append", "filter", "keys", "delivery-1", "delivery-2", "delivery-4", "delivery-8"};
  }
  for (const std::string& what : wanted) shardd::Bench(what);
}
