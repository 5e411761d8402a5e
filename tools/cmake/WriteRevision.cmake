# cmake -DGIT=... -DSOURCE=... -DFILE=... -P WriteRevision.cmake
# Writes a C++ file with the revision of the sources as Git names it, or "unknown". A file that says so already stays as it is,
# so that nothing is built for it.
set(revision "")
if(GIT)
  set(ENV{GIT_OPTIONAL_LOCKS} 0)
  execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty
    OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT revision MATCHES "^[0-9A-Za-z._-]+$")
  set(revision "unknown")
endif()
file(CONFIGURE OUTPUT ${FILE} @ONLY CONTENT "#include \"revode/config/config.hpp\"

std::string revode::source_revision() { return \"@revision@\"; }
")
