#pragma once

#include "server/fan_out.h"
#include "shardd/v1/shardd.pb.h"

namespace shardd::server {

// A server-streaming RPC while it is open: woken by the fan-out, and ended when the server stops.
class OpenStream : public Waiter {
 public:
  // The server stops: deliver what is there, then end with UNAVAILABLE / SERVER_STOPPING.
  // Thread-safe.
  virtual void BeginStop() = 0;

  // For Stats: true, and `subscriber` filled in, where the stream reads the log and nobody has
  // taken over from it. Thread-safe.
  virtual bool Describe(v1::Subscriber& subscriber) const = 0;
};

}  // namespace shardd::server
