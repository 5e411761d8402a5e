"""Folders full of what revode did not make, and the rule that nothing of it ever changes: made at random, looked at
before and after a command, judged. Used by property_test.py and tools/hostile_run.py.
"""
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

STATUSES = (0, 1, 2, 75)
# Far above what a command here takes; with sanitizers it takes ten times as long.
TIMEOUT_SECONDS = 250 * int(os.environ.get("REVODE_TEST_TIME_FACTOR", "1"))
# A run of a few steps on 80 images: some 0.3 s.
TINY = ["--blocks", "1,1,1", "--widths", "8,8,8", "--batch-size", "8", "--threads", "1", "--train-fraction", "0.01",
        "--progress", "off"]
RUN_NAMES = ["config.ini", "metrics.jsonl", "best.h5", "latest.h5"]
LEFT_BEHIND = ".left-behind"
METRICS_LEFT_BEHIND = "metrics.jsonl.left-behind"
HEADER = b"# Written by revode at each start of the run in this folder; change a copy of it."
# What an exception says that nobody turned into a sentence.
BARE = ["internal error", "std::", "json.exception", "terminate called", "Assertion", "filesystem error", "boost::"]


class Thing(NamedTuple):
    """What there is under a path."""
    kind: str  # file, folder, link, fifo, other
    content: str  # digest, or where a link points to
    mode: int


def look_at(path):
    status = os.lstat(path)
    kinds = [(stat.S_ISLNK, "link"), (stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "fifo")]
    kind = next((name for test, name in kinds if test(status.st_mode)), "other")
    content = os.readlink(path) if kind == "link" else digest(path) if kind == "file" else ""
    return Thing(kind, content, stat.S_IMODE(status.st_mode))


def digest(path):
    status = os.stat(path)
    if status.st_size > 2**28:  # a sparse file
        return f"{status.st_size} bytes, {status.st_blocks} blocks, {status.st_mtime_ns}"
    with open(path, "rb") as file:
        return hashlib.sha1(file.read()).hexdigest()


def look(folder):
    """Path below the folder -> Thing; links are not followed."""
    things = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            things[os.path.relpath(path, folder)] = look_at(path)
    return things


def is_checkpoint_name(name):
    return name.startswith("checkpoint-") and name.endswith(".h5") and name[11:-3].isdigit()


def is_run_name(name):
    return name in RUN_NAMES or is_checkpoint_name(name)


def is_temporary(name):
    """Of those that revode makes for a moment."""
    return name.startswith(".revode-") or (name.startswith(".") and name.endswith(".tmp"))


class World:
    """A folder in which strangers and runs live together, and what of it revode made."""

    def __init__(self, folder, random, revode):
        self.folder, self.random, self.revode = Path(folder), random, revode
        self.made = {}  # digest -> what of revode's it is: "checkpoint", "config.ini", "eval --json", ...
        self.contents = {}  # digest -> bytes of records, which are added to

    def make_runs(self):
        """Two runs and some results, all revode's."""
        self.folder.mkdir(exist_ok=True)
        for run in ["run", "deep/er/run"]:
            self.expect_success("train", *TINY, "--steps", "2", "--checkpoint-every", "1", "--output", run)
        self.expect_success("eval", "--checkpoint", "run/latest.h5", "--threads", "1", "--output", "eval.h5", "--json",
                            "eval.json")
        self.expect_success("gradient", *TINY[:4], "--threads", "1", "--samples", "0:4", "--output", "gradient.h5")

    def copy(self, folder, random):
        """Another world that begins like this one."""
        shutil.copytree(self.folder, folder, symlinks=True)
        world = World(folder, random, self.revode)
        world.made, world.contents = dict(self.made), dict(self.contents)
        return world

    def populate(self, num_things=25):
        """Folders, and strangers in all of them."""
        for folder in ["mine", "mine/sub", "empty", "copies"]:
            (self.folder / folder).mkdir()
        for _ in range(num_things):
            self.add_stranger()

    def expect_success(self, *arguments):
        before = look(self.folder)
        done = subprocess.run([self.revode, *arguments], cwd=self.folder, capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"revode {' '.join(arguments)}: {done.stderr}")
        self.learn(before, look(self.folder), arguments)

    def folders(self):
        return ["."] + [path for path, thing in look(self.folder).items() if thing.kind == "folder"]

    def stranger_name(self):
        return self.random.choice([*RUN_NAMES, *RUN_NAMES, "checkpoint-1.h5", "checkpoint-2.h5", "checkpoint-3.h5",
                                   "checkpoint-99.h5", "checkpoint-x.h5", "notes.txt", "result.json", "result.h5",
                                   "metrics.jsonl.left-behind", "best.h5.left-behind", "latest.h5.left-behind",
                                   ".best.h5.mine.tmp", ".revode-lock", "a name with spaces.txt"])

    def add_stranger(self):
        """Something of somebody else's, under a name of its own or one of those that runs use. What lay there goes."""
        path = self.folder / self.random.choice(self.folders()) / self.stranger_name()
        if path.is_dir() and not path.is_symlink():
            return
        path.unlink(missing_ok=True)
        kind = self.random.choice(["text", "json", "garbage", "checkpoint", "cut", "log", "ini", "empty", "link", "link",
                                   "dangling", "hard link", "folder", "fifo", "result"])
        things = look(self.folder)
        others = [place for place, thing in things.items() if thing.kind != "folder"]
        files = [place for place, thing in things.items() if thing.kind == "file"]
        if kind in ("link", "dangling"):
            target = self.random.choice(others) if kind == "link" else "absent/" + self.stranger_name()
            path.symlink_to(os.path.relpath(self.folder / target, path.parent))
        elif kind == "hard link":  # as backups have them
            os.link(self.folder / self.random.choice(files), path)
        elif kind == "folder":
            path.mkdir()
            (path / "inside.txt").write_text("of mine\n")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(self.stranger_content(kind))

    def stranger_content(self, kind):
        tag = str(self.random.randrange(10**9)).encode()
        checkpoint = next(iter((self.folder / "deep/er/run").glob("checkpoint-*.h5")))
        result = self.folder / self.random.choice(["eval.h5", "eval.json", "gradient.h5"])
        copy_of = checkpoint.read_bytes() if checkpoint.is_file() else b"gone " + tag
        return {"text": lambda: b"of mine " + tag + b"\n",
                "json": lambda: json.dumps({"command": "mine", "step": tag.decode(), "kind": 3}).encode() + b"\n",
                "garbage": lambda: b"\x89HDF\r\n\x1a\n" + self.random.randbytes(3000),
                "checkpoint": lambda: copy_of,
                "cut": lambda: copy_of[:-1 - self.random.randrange(3000)],
                "log": lambda: b"epoch 1 loss 2.3 " + tag + b"\n{\"loss\": 1}\nlast line",
                "ini": lambda: b"# of mine " + tag + b"\nsteps = 1\nblocks = 1,1,1\nwidths = 8,8,8\n",
                "empty": lambda: b"",
                "result": lambda: result.read_bytes() if result.is_file() else tag}[kind]()

    def any_path(self):
        """What is there, is not there yet, or lies behind something odd."""
        things = list(look(self.folder))
        path = self.random.choice(things)
        return self.random.choice([path, path, path, os.path.dirname(path) or ".", "./" + path, path + "/", path + "/new",
                                   os.path.join(os.path.dirname(path), "new"), f"new-{self.random.randrange(1000)}",
                                   f"new-{self.random.randrange(1000)}/a/b", "run", "run/latest.h5", "run/best.h5", "mine",
                                   "run/../mine/new", str(self.folder / path), "deep/er/run/latest.h5"])

    def any_command(self):
        """Arguments of train, eval, gradient or info, with random paths: about half of them could be meant."""
        command = self.random.choice(["train", "train", "train", "eval", "gradient", "info"])
        arguments = [command, *getattr(self, f"{command}_arguments")()]
        if self.random.random() < (0.15 if command == "train" else 0.5):
            arguments += ["--json", self.any_path()]
        if self.random.random() < 0.08:
            arguments += ["--config", self.any_path()]
        return arguments

    def good_or_any(self, *good):
        return self.random.choice(good) if self.random.random() < 0.7 else self.any_path()

    def train_arguments(self):
        draw = self.random.random
        arguments = [*TINY, "--steps", str(self.random.randint(1, 5)), "--keep-checkpoints",
                     str(self.random.choice([0, 1, 3])), "--checkpoint-every", str(self.random.randint(1, 3))]
        arguments += ["--output", self.good_or_any("run", "deep/er/run", "new/run", "empty")] if draw() < 0.9 else []
        if draw() < 0.6:
            return arguments + ["--resume", self.good_or_any("auto", "auto", "auto", "run/latest.h5",
                                                             "run/checkpoint-1.h5")]
        return arguments + (["--checkpoint", self.good_or_any("run/latest.h5")] if draw() < 0.2 else [])

    def eval_arguments(self):
        arguments = ["--threads", "1", "--progress", "off", "--checkpoint", self.good_or_any("run/latest.h5")]
        return arguments + (["--output", self.good_or_any("eval.h5", "result.h5")] if self.random.random() < 0.6 else [])

    def gradient_arguments(self):
        return [*TINY[:4], "--threads", "1", "--samples", "0:4", "--output", self.good_or_any("gradient.h5", "result.h5")]

    def info_arguments(self):
        return ["--checkpoint", self.good_or_any("run/best.h5", "run/latest.h5")] + self.random.choice([[], ["--check"]])

    def run(self, arguments, timeout=60):
        """(before, after, the finished process) of one command; FIFOs have a reader."""
        before = look(self.folder)
        drains = [os.open(self.folder / path, os.O_RDWR | os.O_NONBLOCK)
                  for path, thing in before.items() if thing.kind == "fifo"]
        try:
            done = subprocess.run([self.revode, *arguments], cwd=self.folder, capture_output=True, timeout=timeout,
                                  stdin=subprocess.DEVNULL)
        finally:
            for drain in drains:
                os.close(drain)
        return before, look(self.folder), done

    def result_paths(self, arguments):
        """Where results may go, behind links: path below the folder -> kind."""
        given = dict(zip(arguments[1:], arguments[2:]))
        paths = {}
        for option in ["--json", "--output"]:
            if option in given and (option == "--json" or arguments[0] in ("eval", "gradient")):
                real = os.path.realpath(self.folder / given[option])
                paths[os.path.relpath(real, os.path.realpath(self.folder))] = f"{arguments[0]} {option}"
        return paths

    def learn(self, before, after, arguments):
        """What a command made is revode's from now on."""
        results = self.result_paths(arguments)
        old_contents = {thing.content for thing in before.values()}
        for path, thing in after.items():
            if thing.kind != "file" or before.get(path) == thing or thing.content in self.made:
                continue
            name = os.path.basename(path)
            if path in results:
                self.made[thing.content] = results[path]
            elif (is_run_name(name) or name == METRICS_LEFT_BEHIND) and thing.content not in old_contents:
                self.made[thing.content] = "checkpoint" if name.endswith(".h5") else name
        for path, thing in after.items():
            if thing.kind == "file" and os.path.basename(path).startswith("metrics.jsonl"):
                self.contents.setdefault(thing.content, (self.folder / path).read_bytes())

    def violations(self, before, after, arguments, done):
        """What the command did that it may not: sentences. `done` as of run()."""
        found = judge(done.returncode, done.stdout, done.stderr)
        output = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        results = self.result_paths(arguments)
        touched = set()
        moved = self.moved_folders(before, after)
        for path, thing in before.items():
            if after.get(path) == thing or any(path.startswith(old + "/") for old in moved):
                continue
            folder, name = os.path.split(path)
            if path in results and thing.kind == "file" and self.made.get(thing.content) == results[path]:
                continue
            touched.add(folder)
            kept = self.kept_aside(path, thing, before, after)
            if kept and kept in output:
                continue
            if kept:
                found.append(f"'{path}' was set aside as '{kept}', which nobody was told")
            elif arguments[0] != "train" or not self.is_of_run(path, thing):
                now = after.get(path)
                found.append(f"'{path}' ({thing.kind}, not made by a run) " +
                             ("is gone" if now is None else f"has become another {now.kind}"))
            elif is_checkpoint_name(name) and not self.may_vanish(path, after, arguments):
                found.append(f"'{path}' of a run has gone or changed, not by --keep-checkpoints")
            elif name.startswith("metrics.jsonl") and not self.records_remain(path, thing, after):
                found.append(f"'{path}' lost records")
        new = [path for path in after
               if path not in before and not any(path.startswith(name + "/") for name in moved.values())]
        found += self.violations_of_new(new, results, touched, arguments, done.returncode)
        if done.returncode == 2 and before != after:
            changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
            found.append(f"status 2, but changed: {', '.join(changed)}")
        return found

    def violations_of_new(self, new, results, touched, arguments, status):
        found = []
        for path in new:
            folder, name = os.path.split(path)
            if is_temporary(name):
                found.append(f"'{path}' was left")
            if path in results:
                continue
            run_file = arguments[0] == "train" and (is_run_name(name) or LEFT_BEHIND in name)
            if run_file:
                touched.add(folder)
            elif not (arguments[0] == "train" and status != 2 and (self.folder / path).is_dir()):
                found.append(f"'{path}' is new")
        if len(touched) > 1:
            found.append(f"more than one folder changed: {', '.join(sorted(touched))}")
        return found

    @staticmethod
    def moved_folders(before, after):
        """Folders that were set aside with all that is in them: old path -> new path."""
        def below(things, folder):
            return {path[len(folder):]: thing for path, thing in things.items() if path.startswith(folder + "/")}

        return {old: new for old, thing in before.items() for new in after
                if thing.kind == "folder" and new.startswith(old + LEFT_BEHIND) and new not in before
                and below(before, old) == below(after, new)}

    def kept_aside(self, path, thing, before, after):
        """The name under which a thing was set aside."""
        for other, now in after.items():
            if other.startswith(path + LEFT_BEHIND) and other not in before and now == thing:
                return os.path.basename(other)
        return None

    def is_of_run(self, path, thing):
        """Whether a run made it, as far as that can be told: what it wrote, under the name it wrote it."""
        name = os.path.basename(path)
        if name == "latest.h5":
            return thing.kind == "link" and is_checkpoint_name(thing.content)
        if name == "metrics.jsonl" and thing == ("file", hashlib.sha1().hexdigest(), thing.mode):
            return True  # empty
        kind = self.made.get(thing.content) if thing.kind == "file" else None
        if name == METRICS_LEFT_BEHIND:  # added to
            return kind == name
        return kind == ("checkpoint" if name.endswith(".h5") else name) and is_run_name(name)

    def may_vanish(self, path, after, arguments):
        """--keep-checkpoints: newer ones are there, as many as were to be kept."""
        given = dict(zip(arguments[1:], arguments[2:]))
        keep = int(given.get("--keep-checkpoints", "3"))
        folder = os.path.dirname(path)
        steps = [int(os.path.basename(other)[11:-3]) for other in after
                 if os.path.dirname(other) == folder and is_checkpoint_name(os.path.basename(other))]
        step = int(os.path.basename(path)[11:-3])
        return keep > 0 and path not in after and sum(1 for other in steps if other > step) >= keep

    def records_remain(self, path, thing, after):
        """Every whole line that revode wrote into a log is there, or in what was left behind."""
        old = self.contents.get(thing.content, b"")
        lines = set()
        for other, now in after.items():
            if now.kind == "file" and other.startswith(path):
                lines.update((self.folder / other).read_bytes().splitlines(keepends=True))
        return all(line in lines for line in old.splitlines(keepends=True) if line.endswith(b"\n"))


def judge(status, stdout, stderr):
    """What is wrong with how a process ended, whatever it was asked."""
    stdout, stderr = stdout.decode(errors="replace"), stderr.decode(errors="replace")
    found = []
    if status not in STATUSES:
        found.append(f"exit status {status}")
    errors = [line for line in stderr.splitlines() if "revode: error:" in line]
    if status in (1, 2) and (len(errors) != 1 or not errors[0].startswith("revode: error: ")):
        found.append(f"status {status} with {len(errors)} error lines")
    if status in (1, 2) and errors and stderr.splitlines()[-1] != errors[-1]:
        found.append("an error of more than one line")
    if status in (0, 75) and errors:
        found.append(f"status {status} with an error line")
    found += [f"a bare exception: '{word}'" for word in BARE if word in stdout + stderr]
    if any(ord(sign) < 32 and sign not in "\n\r\t" for sign in stderr):
        found.append("control characters on standard error")
    return found
