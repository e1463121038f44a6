#pragma once

#include <cstdio>
#include <cstdlib>

// What must hold whatever the input is. A failure is a crash, which libFuzzer keeps the input of.
#define CHECK_THAT(condition)                                                             \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)
