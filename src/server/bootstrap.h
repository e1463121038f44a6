#pragma once

#include <functional>
#include <stop_token>
#include <thread>

#include "gateway/gateway_bot.h"
#include "server/shard_board.h"
#include "server/shard_director.h"

namespace shardd::server {

// Asks Discord for the gateway when the server starts, until it answers, and then spawns the wanted
// shards. Runs on a thread of its own, beside a server that answers RPCs already.
class Bootstrap {
 public:
  // `on_fatal` is called with the process's exit code where asking again cannot help: 3, the token
  // is rejected; 2, the flags do not fit what Discord says.
  Bootstrap(gateway::RestOptions rest, bool spawn, ShardDirector& director, ShardBoard& board,
            std::function<void(int exit_code)> on_fatal);
  // Stops asking.
  ~Bootstrap();

 private:
  void Run(std::stop_token stop);

  const gateway::RestOptions rest_;
  const bool spawn_;
  ShardDirector& director_;
  ShardBoard& board_;
  const std::function<void(int)> on_fatal_;
  std::jthread thread_;
};

}  // namespace shardd::server
