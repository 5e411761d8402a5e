#!/usr/bin/env python3
"""tools/quickstart, tools/check and tools/install-packages among stand-ins of what they call: which packages they install
and how, what they build and start, and what they say and leave with. Nothing is installed, compiled or trained here.
"""
import fcntl
import os
import pty
import shutil
import signal
import subprocess
import tempfile
import termios
import time
import unittest
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TIMEOUT_SECONDS = 60
NOT_ALLOWED = 3

# Each writes its name and arguments to $LOG. $UID_IS, $INSTALLED, $SUDO_IS and so on are the test's.
STAND_INS = {
    "id": 'case "$1" in -u) echo "$UID_IS" ;; *) echo somebody ;; esac',
    # Installed are all but $MISSING.
    "dpkg-query": 'shift 3; for p; do case " $MISSING " in *" $p "*) ;; *) echo "$p installed" ;; esac; done',
    "apt-get": 'echo "apt-get $*" >>"$LOG"\n'
               'case "$*" in *--assume-no*) echo "Need to get 135 MB of archives."; exit 1 ;; esac',
    # free: no password wanted; asks: one is, and given; refuses: one is, and wrong.
    "sudo": 'echo "sudo $*" >>"$LOG"\n'
            'if [ "$1" = -n ]; then [ "$SUDO_IS" = free ] || exit 1; shift; fi\n'
            '[ "$SUDO_IS" != refuses ] || exit 1\nexec "$@"',
    "cmake": """echo "cmake $*" >>"$LOG"
if [ "$1" = --build ]; then
  mkdir -p "$2/src"
  printf '#!/bin/sh\\necho "program of %s: $*"\\n' "$2" >"$2/src/revode"
  chmod +x "$2/src/revode"
else
  [ -z "$CONFIGURE_FAILS" ] || exit 1
  mkdir -p "$4"
  echo "CMAKE_HOME_DIRECTORY:INTERNAL=$(pwd -P)" >"$4/CMakeCache.txt"
  touch "$4/build.ninja"
  case "$*" in *TESTS=ON*) touch "$4/CTestTestfile.cmake" ;; esac
fi""",
    "ninja": "exit 0",
    "clang-format": "exit 0",
    "lscpu": "printf '0,0\\n1,0\\n'",
    # Starts the program once; MPIRUN_IS tells how it goes.
    "mpirun": """echo "mpirun $*" >>"$LOG"
while [ "$1" != -n ]; do shift; done
shift 2
"$@"
while [ "$1" != --output ]; do shift; done
mkdir -p "$2"
case "$MPIRUN_IS" in
  fails) exit 1 ;;
  saves)
    trap 'touch "$2/latest.h5"; exit 75' USR1
    trap 'exit 1' INT TERM
    touch "$LOG.started"
    while :; do sleep 0.05; done ;;
  dies)
    trap 'exit 1' USR1
    touch "$LOG.started"
    while :; do sleep 0.05; done ;;
  hangs)
    trap '' USR1
    touch "$LOG.started"
    while :; do sleep 0.05; done ;;
  has-saved) touch "$2/latest.h5"; exit 75 ;;
esac""",
    # Of the suite in the folder named by $FAILING the test Some.Property fails.
    "ctest": """echo "ctest $*" >>"$LOG"
case "$2" in *"$FAILING") ;; *) exit 0 ;; esac
mkdir -p "$2/Testing/Temporary"
printf '3:Some.Property\\n17:learning_test\\n' >"$2/Testing/Temporary/LastTestsFailed.log"
exit 8""",
}


class ScriptTest(unittest.TestCase):
    """A repository with the scripts alone, and a PATH on which the stand-ins come first."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="revode-setup-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name).resolve()
        self.repository = self.folder / "clone"
        (self.repository / "tools").mkdir(parents=True)
        for folder in ["include", "src", "tests"]:
            (self.repository / folder).mkdir()
        for name in ["quickstart", "check", "common.sh", "install-packages"]:
            shutil.copy(TOOLS / name, self.repository / "tools")
        self.write_program(self.repository / "tools/check_includes.py", "exit 0")
        self.programs = self.folder / "bin"
        self.programs.mkdir()
        for name, text in STAND_INS.items():
            self.write_program(self.programs / name, text)
        self.log_file = self.folder / "log"
        self.variables = {"UID_IS": "0", "MISSING": "", "SUDO_IS": "free", "MPIRUN_IS": "", "FAILING": "none",
                          "CONFIGURE_FAILS": "", "LOG": str(self.log_file)}

    @staticmethod
    def write_program(path, text):
        path.write_text("#!/bin/sh\n" + text + "\n")
        path.chmod(0o755)

    def hide(self, *names):
        """Only what the scripts are made of stays on the PATH beside the stand-ins."""
        for name in ["env", "bash", "sh", "dirname", "grep", "awk", "sed", "find", "mkdir", "mktemp", "nproc", "cat", "rm",
                     "paste", "sort", "wc", "xargs", "touch", "sleep", "chmod", "printf", "true"]:
            if not (self.programs / name).exists():
                (self.programs / name).symlink_to(shutil.which(name))
        for name in names:
            (self.programs / name).unlink()
        self.variables["PATH"] = str(self.programs)

    def environment(self, variables):
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}", **self.variables, **variables}

    def start(self, script, *arguments, terminal=False, **variables):
        """In a session of its own: without a terminal, or with one that nobody types at."""
        command = [self.repository / "tools" / script, *arguments]
        options = {}
        if terminal:
            ours, theirs = pty.openpty()
            self.addCleanup(os.close, ours)
            self.addCleanup(os.close, theirs)
            options = {"preexec_fn": lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env=self.environment(variables), start_new_session=True, **options)

    def run_script(self, script, *arguments, status=0, terminal=False, **variables):
        """What it said."""
        with self.start(script, *arguments, terminal=terminal, **variables) as process:
            said = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        self.assertEqual(process.returncode, status, said)
        return said

    def log(self, word=""):
        """The calls of stand-ins that begin with the word."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [line for line in lines if line.startswith(word)]


class InstallPackages(ScriptTest):
    def test_every_combination_of_options_is_honoured(self):
        both = set(self.run_script("install-packages", "--list").split())
        build = set(self.run_script("install-packages", "--build", "--list").split())
        self.assertLess(build, both)
        self.assertEqual(both - build, {"ccache", "libgtest-dev", "libgmock-dev", "clang-format", "hdf5-tools", "python3",
                                        "python3-numpy", "python3-h5py", "python3-matplotlib"})
        for options in (["--slurm", "--list"], ["--list", "--slurm"]):
            self.assertEqual(set(self.run_script("install-packages", *options).split()) - both, {"slurm-wlm", "munge"})
        self.assertEqual(set(self.run_script("install-packages", "--list", "--build", "--slurm").split()),
                         build | {"slurm-wlm", "munge"})
        self.assertEqual(self.log(), [])

    def test_unknown_argument_is_refused_wherever_it_stands(self):
        for options in (["--lists"], ["--list", "--lists"], ["--slurm", "more"]):
            said = self.run_script("install-packages", *options, status=2, MISSING="munge")
            self.assertIn(f"unknown argument '{options[-1]}'", said)
        self.assertEqual(self.log(), [])

    def test_nothing_is_installed_and_nobody_asked_when_nothing_is_missing(self):
        said = self.run_script("install-packages", UID_IS="1000")

        self.assertIn("are installed", said)
        self.assertEqual(self.log(), [])

    def test_only_what_is_missing_is_installed_and_its_size_is_said_before(self):
        said = self.run_script("install-packages", MISSING="libfmt-dev slurm-wlm")

        self.assertTrue(self.log("apt-get")[-1].endswith("install -y --no-install-recommends libfmt-dev"), self.log())
        self.assertIn("135 MB", said)

    def test_sudo_that_needs_no_password_is_used_without_asking(self):
        self.run_script("install-packages", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="free")

        self.assertTrue(all(line.startswith("sudo -n ") for line in self.log("sudo")), self.log())
        self.assertTrue(self.log("apt-get")[-1].endswith("libfmt-dev"))

    def test_sudo_that_asks_is_announced_at_a_terminal_and_not_called_without(self):
        said = self.run_script("install-packages", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="asks", terminal=True)
        self.assertIn("sudo asks for your password now", said)
        self.assertTrue(self.log("apt-get")[-1].endswith("libfmt-dev"))
        self.log_file.unlink()

        said = self.run_script("install-packages", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="asks", status=NOT_ALLOWED)
        self.assertIn("no terminal to ask at; as root run: apt-get install --no-install-recommends libfmt-dev", said)
        self.assertEqual(self.log(), ["sudo -n true"])

    def test_who_may_not_become_root_is_told_what_to_ask_for(self):
        said = self.run_script("install-packages", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="refuses", terminal=True,
                               status=NOT_ALLOWED)
        self.assertIn("as root run: apt-get install --no-install-recommends libfmt-dev", said)

        self.hide("sudo")
        said = self.run_script("install-packages", UID_IS="1000", MISSING="libfmt-dev", status=NOT_ALLOWED)
        self.assertIn("found no sudo; as root run: apt-get install --no-install-recommends libfmt-dev", said)
        self.assertEqual(self.log("apt-get"), [])


class Quickstart(ScriptTest):
    def test_program_of_this_build_is_started_whatever_else_lies_there(self):
        for folder in ["cpu-debug", "a", "z", "src/revode.d"]:
            other = self.repository / "build" / folder / "src/revode"
            other.parent.mkdir(parents=True)
            self.write_program(other, "echo the wrong program")

        said = self.run_script("quickstart")

        self.assertIn(f"program of {self.repository}/build: --blocks", said)
        self.assertNotIn("the wrong program", said)

    def test_packages_of_tests_and_pictures_are_left_out(self):
        self.run_script("quickstart", MISSING="hdf5-tools clang-format libgtest-dev python3-matplotlib slurm-wlm")
        self.assertEqual(self.log("apt-get"), [])

        self.run_script("quickstart", MISSING="hdf5-tools libfmt-dev")
        self.assertTrue(self.log("apt-get")[-1].endswith("--no-install-recommends libfmt-dev"), self.log())

    def test_no_install_installs_nothing(self):
        for script in ("quickstart", "check"):
            self.run_script(script, "--no-install", MISSING="libfmt-dev hdf5-tools")
        self.assertEqual(self.log("apt-get"), [])

    def test_sizes_and_duration_are_said_before_anything_happens(self):
        for script in ("quickstart", "check"):
            said = self.run_script(script)
            self.assertRegex(said.split("packages: all")[0], r"(?s)MB to download.*on disk.*minutes")

    def test_user_without_root_goes_on_and_cmake_decides(self):
        said = self.run_script("quickstart", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="asks")
        self.assertIn("apt-get install --no-install-recommends libfmt-dev", said)
        self.assertIn("going on with what is there", said)
        self.assertIn("program of", said)
        shutil.rmtree(self.repository / "build")

        said = self.run_script("quickstart", UID_IS="1000", MISSING="libfmt-dev", SUDO_IS="asks", CONFIGURE_FAILS="1", status=1)
        self.assertIn("apt-get install --no-install-recommends", said.splitlines()[-1])

    def test_root_and_more_ranks_than_cores_get_what_open_mpi_wants_and_it_is_shown(self):
        said = self.run_script("quickstart")
        self.assertIn("$ env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --bind-to none -n 2 ", said)

        self.write_program(self.programs / "lscpu", "echo 0,0")
        said = self.run_script("quickstart", UID_IS="1000")
        self.assertIn("$ mpirun --bind-to none --oversubscribe ", said)

    def test_unknown_argument_is_refused(self):
        for script in ("quickstart", "check"):
            said = self.run_script(script, "--no-install", "--now", status=1)
            self.assertIn("unknown argument '--now'", said)
            self.assertEqual(self.log(), [])

    def stop(self, number, times=1, **variables):
        """(status, words) of a quickstart that is sent a signal, as by Ctrl-C to its whole process group, while it trains."""
        with self.start("quickstart", **variables) as process:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not Path(f"{self.log_file}.started").exists():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            for _ in range(times):
                os.killpg(process.pid, number)
                time.sleep(0.3)
            said = process.communicate(timeout=TIMEOUT_SECONDS)[0]
        return process.returncode, said

    def test_stopped_training_has_not_failed_and_the_command_that_goes_on_is_printed(self):
        going_on = f"mpirun --bind-to none -n 2 {self.repository}/build/src/revode --output {self.repository}/runs/quickstart"
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]:
            ended, said = self.stop(number, MPIRUN_IS="saves", UID_IS="1000")

            self.assertEqual(ended, status, said)
            self.assertNotIn("failed", said)
            self.assertIn("training was stopped", said)
            self.assertIn(f"  {going_on} --resume auto", said.splitlines())
            shutil.rmtree(self.repository / "runs")
            Path(f"{self.log_file}.started").unlink()

    def test_training_that_saved_and_left_by_itself_was_stopped_too(self):
        said = self.run_script("quickstart", MPIRUN_IS="has-saved", status=75)

        self.assertIn("--resume auto", said)
        self.assertNotIn("failed", said)

    def test_training_stopped_before_it_saved_says_so(self):
        for number, status in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
            ended, said = self.stop(number, MPIRUN_IS="dies")

            self.assertEqual(ended, status, said)
            self.assertIn("stopped before anything was saved", said)
            self.assertNotIn("--resume", said)
            Path(f"{self.log_file}.started").unlink()

    def test_second_signal_ends_a_training_that_does_not_stop(self):
        ended, said = self.stop(signal.SIGINT, times=2, MPIRUN_IS="hangs")

        self.assertEqual(ended, 130, said)
        self.assertIn("once more ends it at once", said)

    def test_failed_training_has_failed(self):
        said = self.run_script("quickstart", MPIRUN_IS="fails", status=1)

        self.assertIn("training failed with exit status 1", said)
        self.assertNotIn("--resume", said)


class Check(ScriptTest):
    def test_shares_the_release_build_and_changes_none_of_its_options(self):
        self.run_script("quickstart")
        self.run_script("check")
        self.run_script("quickstart")

        first, second, third = [line for line in self.log("cmake -S") if f"-B {self.repository}/build " in line]
        self.assertIn("-DREVODE_TESTS=OFF", first)
        self.assertIn("-DREVODE_TESTS=ON", second)
        self.assertNotIn("REVODE_TESTS", third)
        for line in (second, third):
            for word in ("-G", "WARNINGS_AS_ERRORS", "LAUNCHER"):
                self.assertNotIn(word, line)

    def test_alone_it_has_warnings_as_errors(self):
        self.run_script("check")

        self.assertEqual(len([line for line in self.log("cmake -S") if "-DREVODE_WARNINGS_AS_ERRORS=ON" in line]), 3)

    def test_quickstart_goes_on_after_a_check_that_lacked_googletest(self):
        self.run_script("quickstart")
        self.run_script("check", status=1, CONFIGURE_FAILS="1")

        self.run_script("quickstart")

        self.assertIn("-DREVODE_TESTS=OFF", self.log("cmake -S")[-1])

    def test_summary_names_each_test_that_failed(self):
        said = self.run_script("check", status=1, FAILING="/build").split("=== summary")[1]
        self.assertIn("failed: Some.Property\n", said)
        self.assertIn("failed: learning_test\n", said)
        self.assertRegex(said, r"tests +FAILED \(8\)")
        self.assertEqual(said.count("Some.Property"), 1)

        said = self.run_script("check").split("=== summary")[1]
        self.assertNotIn("Some.Property", said)
        self.assertRegex(said, r"all +passed")

    def test_single_steps(self):
        said = self.run_script("check", "--only", "includes,threads").split("=== summary")[1]
        names = [line[:30].strip() for line in said.strip().splitlines()]
        self.assertEqual(names, ["packages", "include directions", "build (thread sanitizer)", "tests under thread sanitizer", "all"])

    def test_steps_that_are_none_are_refused(self):
        for steps, words in [("thread", "unknown step 'thread'"), ("", "--only needs steps"), ("fuzzing", "--full")]:
            said = self.run_script("check", "--only", steps, status=1)
            self.assertIn(words, said)
            self.assertEqual(self.log(), [])


if __name__ == "__main__":
    unittest.main()
