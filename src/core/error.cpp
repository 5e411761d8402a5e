#include "revode/core/error.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <new>

namespace revode {

Error current_error(std::string_view context) {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return run_error(
        "there is not enough memory: a smaller --batch-size, more --micro-batches or more ranks "
        "need "
        "less each");
  } catch (const std::filesystem::filesystem_error& error) {
    return run_error("'{}': {}", error.path1().string(), error.code().message());
  } catch (const std::exception& error) {
    return run_error("{}: {}", context, error.what());
  } catch (...) {
    return run_error("{}: of an unknown kind", context);
  }
}

}  // namespace revode

namespace revode::detail {

void assertion_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "revode: internal error: %s does not hold at %s:%d\n", expression, file,
               line);
  std::abort();
}

}  // namespace revode::detail
