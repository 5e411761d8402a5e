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

# Installs missing packages where there is apt; elsewhere CMake says what it does not find.
install_packages() {
  if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    "$repository/tools/install-packages"
  else
    echo "packages: no apt-get here; taking what is installed (tools/install-packages --list names Debian's packages)"
  fi
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
  if command -v ccache >/dev/null; then
    options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  fi
  # A clone that was moved leaves a cache that names its old place.
  if [[ -f $folder/CMakeCache.txt ]] &&
    ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$repository" "$folder/CMakeCache.txt"; then
    echo "note: $folder was configured for another source folder; starting afresh"
    rm -rf -- "$folder"
  fi
  (cd "$repository" && cmake -S . -B "$folder" -G Ninja "${options[@]}" --log-level=NOTICE)
  cmake --build "$folder" -j "$num_cores" "$@"
}

# What Open MPI needs for `ranks` ranks here, and no more than that.
set_mpi_environment() {
  local ranks=$1 cores
  # Two ranks are bound to a core each by default, which would confine the threads of a rank to it.
  export OMPI_MCA_hwloc_base_binding_policy=none
  if (($(id -u) == 0)); then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  # Slots are cores, not hardware threads.
  cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  if ((cores < 1 || cores > num_cores)); then cores=$num_cores; fi
  if ((ranks > cores)); then
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
  fi
}
