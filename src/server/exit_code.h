#pragma once

namespace shardd::server {

// How the process ends; scripts and supervisors rely on these.
inline constexpr int kExitClean = 0;
inline constexpr int kExitFailed = 1;            // a failure at run time, such as a port in use
inline constexpr int kExitBadConfiguration = 2;  // flags, environment, file
inline constexpr int kExitTokenRejected = 3;     // Discord answered 401

}  // namespace shardd::server
