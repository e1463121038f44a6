// Prints what events cost (README.md).

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "events/crc32c.h"
#include "events/log.h"
#include "events/round.h"
#include "server/log_sink.h"
#include "server/open_stream.h"
#include "server/shard_control_service.h"

namespace shardd {
namespace {

constexpr size_t kDataBytes = 1200;
constexpr int kRepetitions = 7;

double ThreadCpu() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double ProcessCpu() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Spread {
  double median, low, high;
};

template <typename Measure>
Spread Repeat(Measure measure) {
  std::vector<double> figures;
  for (int i = 0; i < kRepetitions; ++i) figures.push_back(measure());
  std::sort(figures.begin(), figures.end());
  return {figures[kRepetitions / 2], figures.front(), figures.back()};
}

void Print(const char* what, const Spread& spread, const char* unit) {
  std::printf("%-52s %8.3f %s (%.3f to %.3f)\n", what, spread.median, unit, spread.low,
              spread.high);
}

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
  const Spread appends = Repeat([&] {
    floors.push_back(floor());
    const double figure = append();
    ratios.push_back(figure / floors.back());
    return figure;
  });
  size_t next = 0;
  Print("memcpy + CRC-32C of 1.2 KB", Repeat([&] { return floors[next++]; }), "us/event");
  Print("append, 12 events a round", appends, "us/event");
  next = 0;
  Print("ratio", Repeat([&] { return ratios[next++]; }), "x");
  if (sum == 1) std::printf("\n");

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
        pool_({}, [this] { return std::make_unique<server::LogSink>(*log_, board_, [] {}); }),
        director_({}, pool_),
        stats_("bench", uint64_t{256} << 20, director_, *log_, fan_out_),
        service_(director_, pool_, *log_, stats_, board_, fan_out_, 1000) {
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
  gateway::ShardPool pool_;
  server::ShardDirector director_;
  server::StatsSource stats_;
  server::ShardControlService service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::string address_;
};

// CPU time per delivered event in microseconds, without the appending thread's.
double Deliver(Delivery& delivery, int subscribers, size_t events, size_t per_round,
               std::chrono::microseconds pause) {
  const std::string data(kDataBytes, 'x');
  events::Round round;
  const double process = ProcessCpu();
  const double thread = ThreadCpu();
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
  const double cost = ProcessCpu() - process - (ThreadCpu() - thread);
  return cost / static_cast<double>(events) / subscribers * 1e6;
}

void BenchDelivery(int subscribers) {
  int to_child[2];
  if (pipe(to_child) != 0) std::abort();
  std::fflush(stdout);
  // Before this process has threads of gRPC's.
  const pid_t parent = fork();
  if (parent > 0) {
    close(to_child[0]);
    close(to_child[1]);
    waitpid(parent, nullptr, 0);
    return;
  }
  const pid_t child = fork();
  if (child == 0) {
    close(to_child[1]);
    char address[64] = {};
    if (read(to_child[0], address, sizeof address - 1) > 0) Subscribe(address, subscribers);
    _exit(0);
  }
  {
    Delivery delivery;
    if (write(to_child[1], delivery.address().data(), delivery.address().size()) < 0) std::abort();
    while (delivery.subscribers() < subscribers) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const std::string to = " to " + std::to_string(subscribers);
    const auto backlog = [&] {
      return Deliver(delivery, subscribers, 400'000 / static_cast<size_t>(subscribers + 3), 256,
                     {});
    };
    const auto live = [&] {
      return Deliver(delivery, subscribers, 2000, 5, std::chrono::milliseconds(1));
    };
    backlog();
    Print(("backlog" + to).c_str(), Repeat(backlog), "us/delivered event");
    Print(("live" + to).c_str(), Repeat(live), "us/delivered event");
  }
  std::fflush(stdout);
  waitpid(child, nullptr, 0);
  _exit(0);
}

}  // namespace
}  // namespace shardd

int main() {
  shardd::BenchAppend();
  for (const int subscribers : {1, 8}) shardd::BenchDelivery(subscribers);
}
