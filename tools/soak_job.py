"""What tools/soak.py starts and looks at: the processes of one job, told by the session that they were started in, and the
events in a run's folder, from inotify."""
import contextlib
import ctypes
import os
import re
import select
import signal
import statistics
import struct
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
SAVE = re.compile(r"\.(checkpoint-\d+|best)\.h5\.\w{6}\.tmp")
PREPARATION = re.compile(r"\.(config\.ini|metrics\.jsonl)\..*")
CHECKPOINT = re.compile(r"checkpoint-(\d+)\.h5")
LOOK_SECONDS = 0.01
LINES_OF_OUTPUT = 12


class Trouble(Exception):
    """What the program did and should not have: a kind of fault and a sentence."""

    def __init__(self, fault, text):
        super().__init__(text)
        self.fault = fault


class Watch:
    """What happens in a folder: temporary files that come and go, checkpoints that get their names."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self.folder = Path(folder)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
        if self.descriptor < 0 or libc.inotify_add_watch(self.descriptor, os.fsencode(folder), mask) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} can't be watched")
        self.newest = -1  # step of the newest checkpoint that was seen to get its name
        self.begun = {}  # temporary files of saves -> when they were seen first
        self.save_seconds, self.gap_seconds = [0.01], [0.05]  # how long saves took; from one to the next
        self.last_save = None
        self.start_again()

    def close(self):
        os.close(self.descriptor)

    def start_again(self):
        """A job is about to start."""
        self.look(0)
        self.saves = 0
        self.preparing = self.prepared = self.last_save = None
        self.begun.clear()

    def look(self, seconds):
        """Waits for something to happen, for so long at most, and takes note of it."""
        if select.select([self.descriptor], [], [], seconds)[0]:
            content, place = os.read(self.descriptor, 65536), 0
            while place < len(content):
                _, mask, _, length = struct.unpack_from("iIII", content, place)
                name = os.fsdecode(content[place + 16:place + 16 + length].rstrip(b"\0"))
                place += 16 + length
                self.note(name, mask, time.monotonic())

    def note(self, name, mask, now):
        if SAVE.fullmatch(name):
            if mask & IN_CREATE:
                self.begun[name] = now
            elif name in self.begun:
                self.save_seconds.append(now - self.begun.pop(name))
        elif PREPARATION.fullmatch(name) and mask & IN_CREATE:
            self.preparing = now
        elif name == "metrics.jsonl" and mask & IN_MOVED_TO:
            self.prepared = now
        elif (found := CHECKPOINT.fullmatch(name)) and mask & IN_MOVED_TO:
            self.newest = max(self.newest, int(found[1]))
            self.saves += 1
            if self.last_save is not None:
                self.gap_seconds.append(now - self.last_save)
            self.last_save = now

    def usual(self, seconds):
        return statistics.median(seconds[-20:])

    def temporaries(self):
        """Files of saves that are under way, or were when somebody was killed."""
        return [name for name in os.listdir(self.folder) if SAVE.fullmatch(name)]


class Process(NamedTuple):
    state: str
    parent: int
    session: int


def look_at(process):
    """What /proc says of a process; None where there is none of that number, or what is left of one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(fields[0], int(fields[1]), int(fields[3]))


def working_folder(process):
    try:
        return os.readlink(f"/proc/{process}/cwd")
    except OSError:
        return None


@contextlib.contextmanager
def uninterrupted():
    """What begins here is done before an interrupt is heard: a process that has been started is known."""
    caught = []
    before = {number: signal.signal(number, lambda *_: caught.append(True)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


class Job:
    """One start of revode, alone or behind mpirun, in a session of its own: so its processes can be told from others, also
    when the launcher is gone."""

    def __init__(self, command, ranks, folder, output):
        self.command, self.num_ranks, self.output = command, ranks, Path(output)
        self.folder = os.path.realpath(folder)
        self.begun = time.monotonic()
        with open(output, "wb") as file:
            self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        self.session = self.process.pid

    def members(self):
        """Numbers of its processes that live."""
        found = {int(name): process for name in os.listdir("/proc")
                 if name.isdigit() and (process := look_at(name)) is not None}
        # Started without a launcher, a rank starts a helper of Open MPI's, which takes a session of its own and may outlive
        # it: that works in the job's folder, as nobody else does.
        return sorted(number for number, process in found.items()
                      if process.session == self.session or working_folder(number) == self.folder)

    def ranks(self):
        if self.num_ranks == 1:
            return [self.session] if self.process.poll() is None else []
        found = ((member, look_at(member)) for member in self.members())
        return [member for member, process in found if process and process.parent == self.session]

    def send(self, number, processes):
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass

    def runs(self):
        return self.process.poll() is None

    def wait_until_gone(self, limit, what):
        """Seconds until no process of the job was left."""
        begun = time.monotonic()
        while self.runs() or self.members():
            if time.monotonic() - begun > limit:
                raise Trouble("hang", f"{what}: after {limit} s there still are its processes\n{self.state()}")
            time.sleep(LOOK_SECONDS)
        return time.monotonic() - begun

    def end(self):
        """Leaves none of its processes."""
        while members := self.members():
            self.send(signal.SIGKILL, members)
            time.sleep(LOOK_SECONDS)
        self.process.wait()

    def text(self):
        return self.output.read_text(errors="replace")

    def last_lines(self):
        return "".join(f"  | {line}\n" for line in self.text().splitlines()[-LINES_OF_OUTPUT:])

    def state(self):
        """What its processes wait for, thread by thread, and what they said last."""
        lines = []
        for member in self.members():
            process = look_at(member)
            for thread in sorted(Path(f"/proc/{member}/task").glob("*")):
                try:
                    name, waits_for = ((thread / file).read_text().strip() for file in ("comm", "wchan"))
                    call = (thread / "syscall").read_text().split()[0]
                except (OSError, IndexError):
                    name, waits_for, call = "?", "?", "?"
                lines.append(f"  process {member}, thread {thread.name} ({name}): state "
                             f"{process.state if process else '?'}, waits in "
                             f"{waits_for if waits_for != '0' else 'nothing'}, system call {call}\n")
        return "".join(lines) + self.last_lines()
