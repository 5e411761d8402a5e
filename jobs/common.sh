# Shared by the job scripts, which source it: what a site sets, how ranks are started, and the life of a run that is longer
# than a job may be. Knows SLURM, Open MPI and revode's exit statuses; does not know what a run computes.

# ---- For a site to edit; every variable may also come from the environment of sbatch ----------------------------------

# The modules that revode was built with.
# module load gcc openmpi hdf5

# The program, on a file system that all nodes see.
REVODE=${REVODE:-$REVODE_HOME/build/src/revode}

# What starts the ranks. srun: SLURM itself, needs PMIx in SLURM and in Open MPI (`srun --mpi=list` names it).
# mpirun: Open MPI's launcher, which asks SLURM for the nodes.
REVODE_LAUNCHER=${REVODE_LAUNCHER:-srun}

# Where a training job writes its result, a JSON object; default revode-train-JOB.json in the folder of the submission. Not inside
# a run's folder, where revode refuses it.
# RESULT=

# Further options of the launcher. mpirun binds a rank to as many cores as it has threads.
SRUN_OPTIONS=${SRUN_OPTIONS:-}
MPIRUN_OPTIONS=${MPIRUN_OPTIONS:---map-by slot:PE=${SLURM_CPUS_PER_TASK:-1} --bind-to core}

# A run that is not done after so many restarts is left to a person.
MAX_REQUEUES=${MAX_REQUEUES:-100}

# -----------------------------------------------------------------------------------------------------------------------

readonly stopped_after_saving=75

say() { echo "job: $*"; }

fail() {
  echo "job: error: $1" >&2
  exit "${2:-1}"
}

restarts() { echo "${SLURM_RESTART_COUNT:-0}"; }

# An element of an array goes by two numbers: the plain number of its last element means the whole array.
job_name() {
  if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
    echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  else
    echo "$SLURM_JOB_ID"
  fi
}

# print_start COMMAND [options...]: where and what, into the job's log. Options that revode refuses end the job here.
print_start() {
  [[ -x $REVODE ]] || fail "found no program at REVODE=$REVODE; build it, or name it in jobs/common.sh" 2
  local size="$SLURM_NTASKS ranks of ${SLURM_CPUS_PER_TASK:-1} CPUs${SLURM_GPUS_PER_TASK:+ and $SLURM_GPUS_PER_TASK GPU}"
  say "$(date -u +%FT%TZ) job $(job_name), restart $(restarts), $size by $REVODE_LAUNCHER"
  say "nodes $(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -sd ' ')"
  say "$("$REVODE" --version)"
  say "configuration of: revode $*"
  "$REVODE" "$@" "${thread_options[@]}" --print-config || fail "these options were refused" $?
}

# Without --cpus-per-task (whole nodes, say) revode shares the cores of a node among its ranks there.
thread_options=()
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || thread_options=(--threads "$SLURM_CPUS_PER_TASK")

# set_launch RANKS COMMAND [options...]: leaves in `launch` the command line that starts revode on so many ranks.
set_launch() {
  local ranks=$1 ranks_a_node nodes
  shift
  case $REVODE_LAUNCHER in
    srun)
      # As few nodes as hold them. Since SLURM 22.05 srun has to be told the CPUs again. Ranks that saved end one after the
      # other, each with status 75: no rank is killed for that, but one that is left behind by a crash is, after a minute.
      ranks_a_node=$(((SLURM_NTASKS + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
      nodes=$(((ranks + ranks_a_node - 1) / ranks_a_node))
      # shellcheck disable=SC2206  # options are words
      launch=(srun --mpi=pmix --nodes="$nodes" --ntasks="$ranks" --kill-on-bad-exit=0 --wait=60 $SRUN_OPTIONS)
      [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || launch+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
      [[ -z ${SLURM_GPUS_PER_TASK:-} ]] || launch+=(--gpus-per-task="$SLURM_GPUS_PER_TASK")
      ;;
    mpirun)
      # The variable would reach the srun by which mpirun starts its daemon on each further node, and leave that, and all ranks
      # under it, the GPUs of one task.
      launch=()
      [[ -z ${SLURM_GPUS_PER_TASK:-} ]] || launch+=(env -u SLURM_GPUS_PER_TASK)
      # shellcheck disable=SC2206
      launch+=(mpirun -n "$ranks" $MPIRUN_OPTIONS)
      ;;
    *) fail "REVODE_LAUNCHER=$REVODE_LAUNCHER; expected srun or mpirun" 2 ;;
  esac
  launch+=("$REVODE" "$@" "${thread_options[@]}")
}

# train_until_done [options of revode train, but --resume and --json]: trains in this job; when the time is up, saves and hands
# the run on to the next start of the same job, which goes on from there. Ends the script: with status 0 once the run is done
# and its result is in RESULT.
#
# SLURM sends USR1 to the script ahead of the time limit (--signal=B:USR1@...), and the script passes it on to the launcher,
# which passes it on to the ranks. TERM (scancel, preemption, a lost node) SLURM sends to the ranks as well; the script waits
# for them and does not requeue: where SLURM means the job to start again, it does that itself. Nor is a run requeued that
# failed.
train_until_done() {
  local launcher_pid="" told=0 time_is_up=0 ends=0 interrupted status result before
  result=${RESULT:-revode-train-$(job_name).json}
  trap 'time_is_up=1 interrupted=1; say "SIGUSR1: the time is nearly up"; tell_launcher' USR1
  trap 'ends=1 interrupted=1; say "SIGTERM: SLURM ends the job"' TERM

  set -- train "$@" --resume auto --json "$result"
  print_start "$@"
  before=$(identity "$result")
  set_launch "$SLURM_NTASKS" "$@"

  # In the background, because bash runs traps only between commands or in `wait`, which a trap ends early.
  "${launch[@]}" &
  launcher_pid=$!
  ((!time_is_up)) || tell_launcher
  while :; do
    interrupted=0
    wait "$launcher_pid"
    status=$?
    ((interrupted)) || break
  done

  if ((status == 0)); then
    # srun has been seen to end with status 0 where SLURM had refused to launch the ranks.
    [[ -s $result && $(identity "$result") != "$before" ]] || fail "$REVODE_LAUNCHER ended with status 0, but no rank wrote $result"
    say "done; result in $result"
    exit 0
  fi
  # Also without USR1: revode looks at the end of the job itself, where SLURM tells it. Beyond 128: ended by the signal, which
  # came before revode had begun to listen.
  if ((!ends && (status == stopped_after_saving || (time_is_up && status > 128)))); then
    (($(restarts) < MAX_REQUEUES)) ||
      fail "not done after $(restarts) restarts (MAX_REQUEUES=$MAX_REQUEUES); submit it again to go on" "$status"
    say "status $status: to be continued by restart $(($(restarts) + 1))"
    # SLURM ends this script soon after.
    trap '' TERM
    scontrol requeue "$(job_name)" || fail "could not requeue $(job_name); submit it again to go on" "$status"
    exit "$status"
  fi
  say "status $status: not requeued"
  exit "$status"
}

# Of a file, or nothing: other after each time that revode wrote it. An earlier result stays until revode replaces it.
identity() { stat -c '%i %y' "$1" 2>/dev/null; }

# Once, if there is one: a second signal would end revode before it has saved.
tell_launcher() {
  [[ -n $launcher_pid && $told == 0 ]] || return 0
  told=1
  kill -USR1 "$launcher_pid" 2>/dev/null
}
