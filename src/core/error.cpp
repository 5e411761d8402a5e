#include "revode/core/error.hpp"

#include <cstdio>
#include <cstdlib>

namespace revode::detail {

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "revode: internal error: %s does not hold at %s:%d\n", expression, file,
               line);
  std::abort();
}

}  // namespace revode::detail
