# What every revode target shares, in one place: language level, warnings, floating-point rules, sanitizers.

add_library(revode_options INTERFACE)
target_compile_features(revode_options INTERFACE cxx_std_20)
# Rebuilding a state needs the same rounding on the way back: no contraction, no fast-math.
target_compile_options(revode_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion>)
# GCC 12 sees overlapping copies inside std::string where there are none (its bug 105651).
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(revode_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(REVODE_WARNINGS_AS_ERRORS)
  target_compile_options(revode_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(REVODE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    message(FATAL_ERROR "REVODE_FUZZ needs clang, whose libFuzzer the fuzz targets are built with: configure a folder of its own "
                        "with -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ (tools/fuzz does); found ${CMAKE_CXX_COMPILER_ID}")
  endif()
  if(REVODE_SANITIZE OR REVODE_TESTS)
    message(FATAL_ERROR "REVODE_FUZZ has sanitizers of its own and no test suite: leave out REVODE_SANITIZE, set REVODE_TESTS=OFF")
  endif()
  set(revode_fuzz_options -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(revode_options INTERFACE -fsanitize=address,undefined)
endif()
if(REVODE_SANITIZE)
  if(REVODE_SANITIZE STREQUAL thread)
    set(sanitizers -fsanitize=thread)
    target_compile_options(revode_options INTERFACE ${sanitizers})
  else()
    set(sanitizers -fsanitize=address,undefined)
    # Checks for undefined behaviour take two fifths of the compiling: what is tested has them, a test's own code has not.
    # Most of that are checks of pointers, whose worst faults the address sanitizer finds as well.
    set(undefined -fsanitize=undefined)
    if(REVODE_SANITIZE_LESS)
      list(APPEND undefined -fno-sanitize=null,alignment,object-size,vptr)
    endif()
    target_compile_options(revode_options INTERFACE -fsanitize=address
      "$<$<NOT:$<BOOL:$<TARGET_PROPERTY:REVODE_TEST_CODE>>>:${undefined}>" -fno-sanitize-recover=undefined)
  endif()
  target_compile_options(revode_options INTERFACE -fno-omit-frame-pointer
    -fPIC)  # as what goes into a plug-in has: precompiled headers must agree on it
  target_link_options(revode_options INTERFACE ${sanitizers})
  # Checks make large programs: a fast linker, and a compiler that tidies its memory less often, save a tenth of the build.
  include(CheckLinkerFlag)
  check_linker_flag(CXX -fuse-ld=gold REVODE_HAS_GOLD)
  if(REVODE_HAS_GOLD)
    target_link_options(revode_options INTERFACE -fuse-ld=gold)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(revode_options INTERFACE --param=ggc-min-expand=400 --param=ggc-min-heapsize=500000)
  endif()
endif()

# revode_precompile(<target> <modules|tests> <optimised|small|unoptimised>)
# Headers that most files take are read once for all targets of a kind (GCC wants the same optimisation): GoogleTest's in every
# build, which brings much of the standard library along anyway, and with REVODE_BATCHED and under sanitizers all, which saves a
# third of the compiling. Other builds do without the latter, so that a file which lacks an include is found.
function(revode_precompile target kind level)
  if(NOT REVODE_SANITIZE AND NOT REVODE_BATCHED AND NOT kind STREQUAL tests)
    return()
  endif()
  set(headers revode_headers_${kind}_${level})
  if(NOT TARGET ${headers})
    set(source ${PROJECT_BINARY_DIR}/${headers}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "// Headers that are precompiled.\n")
    add_library(${headers} OBJECT ${source})
    target_link_libraries(${headers} PRIVATE revode_options)
    if(kind STREQUAL tests)
      target_link_libraries(${headers} PRIVATE GTest::gtest)
      set_target_properties(${headers} PROPERTIES REVODE_TEST_CODE ON)
      target_precompile_headers(${headers} PRIVATE <gtest/gtest.h>)
    endif()
    if(REVODE_SANITIZE OR REVODE_BATCHED)
      target_link_libraries(${headers} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
      target_precompile_headers(${headers} PRIVATE
        <algorithm> <array> <chrono> <cmath> <filesystem> <fstream> <functional> <map> <memory> <numeric> <optional> <ranges>
        <set> <span> <sstream> <string> <thread> <vector> <fmt/format.h> <fmt/ranges.h> <nlohmann/json.hpp>)
    endif()
    if(level STREQUAL unoptimised)
      target_compile_options(${headers} PRIVATE -O0)
    elseif(level STREQUAL small)
      target_compile_options(${headers} PRIVATE ${revode_small})
    endif()
  endif()
  target_precompile_headers(${target} REUSE_FROM ${headers})
endfunction()

# Files without private names in common compile several at a time with REVODE_BATCHED and under sanitizers. (Not for fuzzing:
# clang takes names for shadowed that GCC does not.)
function(revode_compile_together target)
  get_target_property(sources ${target} SOURCES)
  list(LENGTH sources num_sources)
  if(num_sources GREATER 1 AND (REVODE_BATCHED OR REVODE_SANITIZE))
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12)
  endif()
endfunction()

set(revode_small $<$<CONFIG:Release>:-Os>)

# revode_add_module(<name> SOURCES <files> [PUBLIC <targets>] [PRIVATE <targets>] [COLD] [PLUGIN])
# One static library a module, as revode::<name>; the links state the layer order. COLD is for modules that compute little:
# they are optimised for size, which a rank's memory and the compiler's time gain by, and under sanitizers not at all. PLUGIN is
# for what goes into a plug-in; the program takes the same objects.
function(revode_add_module name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "COLD;PLUGIN" "" "SOURCES;PUBLIC;PRIVATE")
  add_library(revode_${name} STATIC ${arg_SOURCES})
  add_library(revode::${name} ALIAS revode_${name})
  target_include_directories(revode_${name}
    PUBLIC ${PROJECT_SOURCE_DIR}/include
    PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(revode_${name} PUBLIC revode_options ${arg_PUBLIC} PRIVATE ${arg_PRIVATE})
  if(REVODE_FUZZ)
    # The backend reads no input: its kernels, which take long to compile, are only linked.
    if(name STREQUAL backend)
      target_compile_options(revode_${name} PRIVATE -O0)
      target_compile_definitions(revode_${name} PRIVATE HWY_COMPILE_ONLY_STATIC)
    else()
      target_compile_options(revode_${name} PRIVATE ${revode_fuzz_options})
    endif()
  elseif(arg_COLD AND REVODE_SANITIZE)
    target_compile_options(revode_${name} PRIVATE -O0)
    revode_precompile(revode_${name} modules unoptimised)
  elseif(arg_COLD)
    target_compile_options(revode_${name} PRIVATE ${revode_small})
    revode_precompile(revode_${name} modules small)
  elseif(REVODE_SANITIZE OR NOT arg_PLUGIN)
    revode_precompile(revode_${name} modules optimised)
  endif()
  if(arg_PLUGIN)
    set_target_properties(revode_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  endif()
  # Highway includes a file of kernels in itself, once an instruction set.
  if(NOT name STREQUAL backend)
    revode_compile_together(revode_${name})
  endif()
endfunction()

# What tools/check tests optimised: all but tests of one process without kernels. revode_test_optimised(<targets>) adds to it.
add_custom_target(revode_optimised_tests)
function(revode_test_optimised)
  add_dependencies(revode_optimised_tests ${ARGN})
endfunction()

function(revode_add_thread_test target)
  if(NOT TARGET revode_thread_tests)
    add_custom_target(revode_thread_tests)
  endif()
  add_dependencies(revode_thread_tests ${target})
endfunction()

# revode_add_test(<name> SOURCES <files> [LINK <targets>] [RANKS <counts>] [LABELS <labels>] [TIMEOUT <seconds>]
#                 [UNOPTIMISED] [FULL_ONLY] [SHARDS <count>])
# Builds tests/<...>/<name> and registers it once a rank count (without RANKS: one process, no mpirun). The target
# revode_unit_tests builds those of one process and nothing else. UNOPTIMISED is for tests whose own code computes little: in
# every build optimising it takes longer than running it. What they test keeps its optimisation.
# FULL_ONLY keeps a test out of revode_unit_tests: it would take long there, or a module that no other test takes.
# LABELS kernels is for tests of one process that tools/check runs optimised too, and not under sanitizers alone.
# LABELS threads is for what has several threads: the thread sanitizer's tests, which the target revode_thread_tests builds.
# SHARDS is for long tests of one process: GoogleTest deals the cases out to <name>_shard_1 and so on, which run side by side.
function(revode_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "UNOPTIMISED;FULL_ONLY" "TIMEOUT;SHARDS" "SOURCES;LINK;RANKS;LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * ${REVODE_TEST_TIME_FACTOR}")
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  set_target_properties(${name} PROPERTIES REVODE_TEST_CODE ON)
  revode_compile_together(${name})
  if(arg_UNOPTIMISED)
    target_compile_options(${name} PRIVATE -O0)
    revode_precompile(${name} tests unoptimised)
  else()
    revode_precompile(${name} tests optimised)
  endif()
  if(threads IN_LIST arg_LABELS)
    revode_add_thread_test(${name})
  endif()
  if(arg_RANKS)
    target_link_libraries(${name} PRIVATE ${arg_LINK} revode_test_mpi_main)
    revode_test_optimised(${name})
    foreach(ranks IN LISTS arg_RANKS)
      add_test(NAME ${name}_${ranks}
        COMMAND ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} $<TARGET_FILE:${name}>)
      set_tests_properties(${name}_${ranks} PROPERTIES
        LABELS "mpi;${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${REVODE_MPI_TEST_ENVIRONMENT}"
        PROCESSORS 2)
    endforeach()
  else()
    target_link_libraries(${name} PRIVATE ${arg_LINK} GTest::gtest GTest::gtest_main)
    if(NOT TARGET revode_unit_tests)
      add_custom_target(revode_unit_tests)
    endif()
    if(arg_FULL_ONLY)
      list(APPEND arg_LABELS full_only)
    else()
      add_dependencies(revode_unit_tests ${name})
    endif()
    if(arg_FULL_ONLY OR kernels IN_LIST arg_LABELS)
      revode_test_optimised(${name})
    else()
      list(APPEND arg_LABELS sanitized_only)
    endif()
    if(NOT arg_SHARDS)
      set(arg_SHARDS 1)
    endif()
    foreach(shard RANGE 1 ${arg_SHARDS})
      set(test ${name})
      set(environment ${REVODE_MPI_TEST_ENVIRONMENT})
      if(arg_SHARDS GREATER 1)
        set(test ${name}_shard_${shard})
        math(EXPR index "${shard} - 1")
        list(APPEND environment GTEST_TOTAL_SHARDS=${arg_SHARDS} GTEST_SHARD_INDEX=${index})
      endif()
      add_test(NAME ${test} COMMAND ${name})
      set_tests_properties(${test} PROPERTIES
        LABELS "unit;${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} ENVIRONMENT "${environment}")
    endforeach()
  endif()
endfunction()

# Tests start more ranks than there are cores, in containers as root: allow it, never bind, and yield while waiting. They start
# hundreds of times, on one host: not looking for drivers of networks saves 0.2 s each time.
set(REVODE_MPI_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
  OMPI_MCA_pml=ob1)
# With sanitizers a run takes some ten times as long; tests of time-outs know of it by the variable.
set(REVODE_TEST_TIME_FACTOR 1)
if(REVODE_SANITIZE)
  set(REVODE_TEST_TIME_FACTOR 10)
  list(APPEND REVODE_MPI_TEST_ENVIRONMENT REVODE_TEST_TIME_FACTOR=${REVODE_TEST_TIME_FACTOR})
endif()
