# Shared by tools/quickstart and tools/check, which source it: where things go, packages, timed steps, MPI's environment.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
num_cores=$(nproc)

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# Sets `work`: the folder that takes build/ and runs/. That is the repository, unless something there belongs to somebody
# else (a clone or an earlier build made as root, say): then a folder of one's own.
choose_work_folder() {
  work=$repository
  local foreign=""
  if [[ ! -w $repository ]]; then
    foreign=$repository
  else
    local folder
    for folder in "$repository/build" "$repository/runs"; do
      [[ -e $folder ]] || continue
      foreign=$(find "$folder" -maxdepth 3 ! -writable -print -quit 2>/dev/null || true)
      [[ -z $foreign ]] || break
    done
  fi
  [[ -n $foreign ]] || return 0
  work=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/revode
  mkdir -p "$work" 2>/dev/null || work=$(mktemp -d "${TMPDIR:-/tmp}/revode-XXXXXX")
  echo "note: $foreign is not writable for $(id -un); building in $work instead"
}

# install_packages [options of tools/install-packages]: installs what is missing. Where that is not allowed, or fails, CMake
# decides: compiler and libraries may come from elsewhere.
install_packages() {
  "$repository/tools/install-packages" "$@" ||
    echo "packages: going on with what is there; CMake says what it does not find"
}

# configure_release_and_build WITH_TESTS [build options...]: the program, optimised, into build/. A folder that is configured
# keeps its other options, so that quickstart and check can take turns and nothing is compiled twice: no change of flags
# (warnings as errors, ccache), and tests that are there stay, since CMake would delete their objects.
configure_release_and_build() {
  local with_tests=$1 options=(-DCMAKE_BUILD_TYPE=Release -DREVODE_SANITIZE=OFF)
  shift
  if [[ $with_tests == with-tests ]]; then
    options+=(-DREVODE_TESTS=ON)
    is_configured "$work/build" || options+=(-DREVODE_WARNINGS_AS_ERRORS=ON "${options_of_check[@]}")
  elif [[ ! -f $work/build/CTestTestfile.cmake ]]; then
    options+=(-DREVODE_TESTS=OFF)
  fi
  configure_and_build "$work/build" "${options[@]}" -- "$@"
}

is_configured() { [[ -f $1/build.ninja || -f $1/Makefile ]] && configured_for_this_source "$1"; }

configured_for_this_source() {
  grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$repository" "$1/CMakeCache.txt" 2>/dev/null
}

# configure_and_build FOLDER [cmake options...] [-- build options...]
configure_and_build() {
  local folder=$1 options=()
  shift
  while (($# > 0)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  (($# == 0)) || shift
  command -v cmake >/dev/null || fail "found no cmake; tools/install-packages --build --list names what the build needs"
  # A clone that was moved leaves a cache that names its old place.
  if [[ -f $folder/CMakeCache.txt ]] && ! configured_for_this_source "$folder"; then
    echo "note: $folder was configured for another source folder; starting afresh"
    rm -rf -- "$folder"
  fi
  # These cannot be changed later, or only by compiling everything again.
  if ! is_configured "$folder"; then
    rm -f -- "$folder/CMakeCache.txt"
    if command -v ninja >/dev/null; then options+=(-G Ninja); fi
    if command -v ccache >/dev/null; then options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  fi
  (cd "$repository" && cmake -S . -B "$folder" "${options[@]}" --log-level=NOTICE) ||
    fail "CMake could not configure $folder; its message is above. What the build needs of Debian's packages:" \
      "apt-get install --no-install-recommends $("$repository/tools/install-packages" --build --list | paste -sd ' ')"
  cmake --build "$folder" -j "$num_cores" "$@"
}

# Sets `launch`, the words that start `ranks` ranks here, with what Open MPI needs for that and no more; as a person would
# type them.
set_launch() {
  local ranks=$1 cores
  launch=()
  if (($(id -u) == 0)); then
    launch+=(env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
  fi
  # Two ranks are bound to a core each by default, which would confine the threads of a rank to it.
  launch+=(mpirun --bind-to none)
  # Slots are cores, not hardware threads.
  cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  if ((cores < 1 || cores > num_cores)); then cores=$num_cores; fi
  if ((ranks > cores)); then launch+=(--oversubscribe --mca mpi_yield_when_idle 1); fi
  launch+=(-n "$ranks")
}
