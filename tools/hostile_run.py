#!/usr/bin/env python3
"""Uses revode as hostile but realistic users of a cluster would, and judges every ending by the same rules.

    tools/hostile_run.py REVODE [--tries 1000] [--seed N] [--kind KIND] [--only TRY] [--jobs N]

For looking for what the test suite does not know of yet: each try damages a file, mistypes an option, kills a run,
starts ranks that do not agree, ... , all drawn from the seed. Kinds: options, ini, checkpoints, data, outputs, streams,
kills, ranks (needs mpirun). Rules: the exit status is 0, 1, 2 or 75, and 2 for bad input; an error is one line, never an
exception's bare text; nothing that revode did not make changes; a start that fails leaves no trace, and nothing leaves
temporary files; nothing hangs. Ends with a table; a violation comes with the commands that show it and its folder, which
is kept. With h5py, checkpoints are damaged behind their checksums too. Exit status 1 if any rule was broken.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/commands"))
import strangers  # noqa: E402
from program import write_cifar10  # noqa: E402
from run_files import last_of_each  # noqa: E402
from strangers import TINY  # noqa: E402

try:
    import h5py
except ImportError:
    h5py = None

LIMIT_SECONDS = 60
CIFAR = ["--dataset", "cifar10", "--data-dir", "cifar"]
# How a bad end of a run may be told with status 1: it is no fault of the input alone.
RUN_FAILURES = re.compile(r"finite|can't be written|cannot write|nobody reads|standard output|verify|No space|diverge")

# Long enough to be killed in the middle; some 2 s.
LONG = [*TINY, "--steps", "600", "--epochs", "1000", "--checkpoint-every", "7", "--eval-every", "10"]


class Try:
    """One folder, the commands that were run in it, and what was wrong with them."""

    def __init__(self, template, folder, seed, revode):
        self.folder, self.random, self.revode = Path(folder), random.Random(seed), revode
        self.template = template
        self.commands, self.violations, self.outcomes, self.said = [], [], [], []

    def copy_template(self):
        shutil.copytree(self.template.folder, self.folder, symlinks=True, dirs_exist_ok=True)

    def note(self, text):
        """A step that is no command, for whoever repeats the try."""
        self.commands.append("# " + text)

    def execute(self, command, stdin=subprocess.DEVNULL):
        """(status or None after the time limit, standard output, standard error)."""
        self.commands.append(shlex.join(map(str, command)))
        process = subprocess.Popen(list(map(str, command)), cwd=self.folder, stdin=stdin, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        try:
            stdout, stderr = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            return None, stdout, stderr
        return process.returncode, stdout, stderr

    def judge(self, ended, allowed=(0, 1, 2, 75), streams=True, ranks=False):
        """Notes how a command ended and what was wrong with it."""
        status, stdout, stderr = ended
        self.said.append((stdout + stderr).decode(errors="replace")[-3000:])
        self.outcomes.append("hang" if status is None else str(status))
        if status is None:
            self.violations.append(f"hangs: no end within {LIMIT_SECONDS} s")
            return
        found = strangers.judge(status, stdout, stderr)
        if not streams:
            found = [sentence for sentence in found if "error line" not in sentence]
        if ranks:
            found = [sentence for sentence in found if "more than one line" not in sentence]
        if status not in allowed and status in strangers.STATUSES:
            found.append(f"exit status {status}, expected {' or '.join(map(str, allowed))}")
        text = stderr.decode(errors="replace")
        if status == 1 and streams and not RUN_FAILURES.search(text):
            found.append("status 1 for what looks like bad input")
        if status == 0 and re.search(r"\bnan\b|\binf\b", stdout.decode(errors="replace")):
            found.append("success with numbers that are not finite")
        self.violations += found

    def refused_or_done(self, arguments, **how):
        """A command that may fail, but then without a trace."""
        before = strangers.look(self.folder)
        ended = self.execute([self.revode, *arguments])
        self.judge(ended, **how)
        self.expect_no_trace(before, ended[0])
        return ended[0]

    def expect_no_trace(self, before, status):
        after = strangers.look(self.folder)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        if status == 2 and changed:
            self.violations.append(f"status 2, but changed: {', '.join(changed)}")
        self.expect_no_temporaries()

    def expect_no_temporaries(self):
        left = [path for path in strangers.look(self.folder) if strangers.is_temporary(os.path.basename(path))]
        if left:
            self.violations.append(f"left: {', '.join(left)}")

    # ----- words of users

    def word(self):
        choose = self.random.choice
        return choose(["", " ", "-", "--", "-1", "0", "1", "2", "3.5", "1e400", "-1e400", "nan", "inf", "1e-320", "1e300",
                       "0x10", "1_000", "1,000", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
                       "18446744073709551616", "2147483648", "4294967297", "99999999999999999999999999", "on", "off",
                       "true", "auto", "none", "a" * 300, "b" * 70000, "a\nb", "a\x1b[31mb", "\x07", "\x7f", "\udcff\udcfe",
                       "é", "\u202e", "%s%n", "{}", "{0}", "$(id)", "';--", "../new", ".", "/dev/null", "run",
                       "run/latest.h5", "1:2", "2:1", "0:1000000000000", "00:00:01", "1,1,1", "8,8,8", "0,0,0", "1,1",
                       "1,1,1,1", "1,,1", ",", "-1,1,1", "1000000000,1000000000,1000000000", "100000,100000,100000",
                       "1,1,10000000", "7,7,7", "0.5", "1.0000000001", "synthetic", "cifar10", "hamiltonian", "Leapfrog",
                       "midpoint", "64", "1000", "16777217", str(self.random.randrange(-10, 2000))])

    def option(self):
        return self.random.choice(self.template.options)

    def mistyped(self, name):
        position = self.random.randrange(max(1, len(name)))
        return self.random.choice([name[:position] + name[position + 1:], name[:position] + "x" + name[position:],
                                   name.upper(), name[:position], name + "=", "-" + name, name.replace("-", "_")])

    def sensible(self):
        """An option and a value that could be meant, in combinations that nobody may have tried."""
        return self.random.choice([
            ["--arch", self.random.choice(["leapfrog", "midpoint"])], ["--grid-bits", self.random.choice(["0", "8", "22"])],
            ["--step-size", self.random.choice(["1e-300", "5", "1e10", "0.001"])], ["--batch-size", "1"],
            ["--batch-size", "80"], ["--batch-size", "81"], ["--micro-batches", self.random.choice(["1", "3", "8", "9"])],
            ["--steps", self.random.choice(["0", "1", "11"])], ["--epochs", self.random.choice(["0", "1"])],
            ["--learning-rate", self.random.choice(["0", "1e-40", "1e10", "1e38"])], ["--lr-decay-epochs", "none"],
            ["--lr-decay-epochs", self.random.choice(["5,3", "0", "1,1", "2000000000"])], ["--momentum", "1"],
            ["--weight-decay", self.random.choice(["0", "1e30"])], ["--smoothness", "1e30"], ["--clip-norm", "1e-30"],
            ["--schedule", "gpipe"], ["--time-ranks", self.random.choice(["1", "2"])], ["--backend", "reference"],
            ["--activations", "store"], ["--checkpoint-every", "1000000"], ["--keep-checkpoints", "1"],
            ["--on-nonfinite", self.random.choice(["skip", "rewind"])], ["--max-rewinds", self.random.choice(["0", "1", "101"])],
            ["--hang-timeout", self.random.choice(["-1", "0", "60"])],
            ["--check-reversal", self.random.choice(["1", "-1", "often"])],
            ["--on-save-error", self.random.choice(["continue", "go-on"])],
            ["--log-every", "1"], ["--progress", "on"], ["--time-limit", self.random.choice(["00:01", "00:00:01"])],
            ["--eval-every", "0"], ["--warmup-epochs", self.random.choice(["1", "100"])], ["--augment", "off"],
            ["--seed", "18446744073709551615"], ["--train-fraction", "0.0001"], ["--resume"], ["--json", "-"],
            ["--json", "new.json"], ["--checkpoint", "run/best.h5"], ["--resume", "run/best.h5"], ["--split", "train"],
            ["--samples", self.random.choice(["0:1", "999:1000", "999:1001", "79:81"])], ["--threads", "2"],
            ["--blocks", self.random.choice(["2,1,1", "1,1,3", "0,0,1", "0,1,0"])], ["--depth", self.random.choice(
                ["2", "14", "15", "26"])], ["--widths", self.random.choice(["2,4,6", "8,8,16", "2,2,2", "16,8,4"])],
            ["--print-config"], ["--check"], ["--dataset", "cifar10", "--data-dir", "cifar"]])

    def some_command(self, output="new"):
        """A command that is all right."""
        return self.random.choice([
            ["train", *TINY, "--steps", "1", "--output", output], ["train", *TINY, "--steps", "1", "--output", output],
            ["train", *TINY[:8], "--progress", "off", *CIFAR, "--steps", "1", "--output", output],
            ["train", *TINY, "--steps", "3", "--output", "run", "--resume", "auto"],
            ["eval", "--checkpoint", "run/latest.h5", "--threads", "1", "--output", "new.h5", "--json", "new.json"],
            ["gradient", *TINY[:4], "--threads", "1", "--samples", "0:4", "--output", "new.h5"],
            ["gradient", "--checkpoint", "run/latest.h5", "--threads", "1", "--output", "new.h5", "--samples", "0:4"],
            ["info", "run/latest.h5"], ["info", "run/latest.h5", "--json", "-"],
            ["bench", *TINY[:8], "--steps", "1"], ["verify", *TINY[:8]]])

    # ----- kinds

    def try_options(self):
        arguments = self.some_command()
        if self.random.random() < 0.5:
            for _ in range(self.random.randint(1, 3)):
                arguments += self.sensible()
            self.refused_or_done(last_of_each(arguments))
            return
        for _ in range(self.random.choice([1, 1, 2, 3])):
            change = self.random.randrange(6)
            places = [place for place, word in enumerate(arguments) if word.startswith("--")]
            place = self.random.choice(places) if places else 0
            if change == 0 and places:
                arguments[place] = "--" + self.mistyped(arguments[place][2:])
            elif change == 1 and places and place + 1 < len(arguments):
                arguments[place + 1] = self.word()
            elif change == 2:
                arguments += ["--" + self.option(), self.word()]
            elif change == 3:
                arguments += ["--" + self.option() + "=" + self.word()]
            elif change == 4:
                arguments.insert(self.random.randrange(len(arguments) + 1), self.word())
            else:
                arguments += self.random.choice([["--depth", self.word()], ["--blocks", self.word()],
                                                 ["--widths", self.word()], ["--depth", "14", "--blocks", "1,1,1"],
                                                 ["--threads", self.word()], ["--batch-size", self.word()]])
        # A word with an end in the middle can't be passed at all.
        arguments = [word.replace("\0", "") for word in arguments]
        self.refused_or_done([os.fsencode(word) if "\udcff" in word else word for word in arguments])

    def try_ini(self):
        text = (self.folder / "run/config.ini").read_bytes().replace(b"output = run", b"output = new")
        lines = text.split(b"\n")
        place = self.random.randrange(len(lines))
        word = self.word().encode("utf-8", "surrogateescape")
        key = self.option().encode()
        damage = {"flip": lambda: bytes(byte ^ (1 << self.random.randrange(8)) if self.random.random() < 0.01 else byte
                                        for byte in text),
                  "binary": lambda: self.random.randbytes(self.random.choice([1, 100, 100000])),
                  "huge": lambda: text + b"# " + b"x" * 20_000_000,
                  "many": lambda: text + b"seed = 1\n" * 300_000,
                  "key": lambda: text + b"\n" + self.mistyped(key.decode()).encode() + b" = 1\n",
                  "value": lambda: text + b"\n" + key + b" = " + word + b"\n",
                  "line": lambda: b"\n".join(lines[:place] + [word] + lines[place:]),
                  "cut": lambda: text[:self.random.randrange(len(text))],
                  "nul": lambda: text.replace(b"\n", b"\0\n", self.random.randrange(1, 20)),
                  "mac": lambda: text.replace(b"\n", b"\r"), "windows": lambda: text.replace(b"\n", b"\r\n"),
                  "bom": lambda: b"\xef\xbb\xbf" + text, "utf-16": lambda: text.decode().encode("utf-16"),
                  "section": lambda: b"[train]\n" + text, "empty": lambda: b"",
                  "escape": lambda: text + b"\nseed\x1b[31m = \x1b]0;title\x07\n",
                  "self": lambda: text + b"\nconfig = my.ini\n",
                  "quotes": lambda: text.replace(b"= ", b'= "').replace(b"\n", b'"\n')}
        name = self.random.choice(list(damage))
        path = self.folder / "my.ini"
        if self.random.random() < 0.08:
            name = self.random.choice(["folder", "fifo", "device", "dangling"])
            {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"),
             "dangling": lambda: path.symlink_to("absent")}[name]()
        else:
            path.write_bytes(damage[name]())
        self.note(f"my.ini: {name}, kept in the folder")
        command = self.random.choice([["train"], ["train"], [], ["train", "--print-config"], ["bench"], ["verify"],
                                      ["gradient", "--samples", "0:4"]])
        output = ["--output", "new.h5"] if command[:1] == ["gradient"] else []
        steps = ["--steps", "1"] if command[:1] in ([], ["train"], ["bench"]) else []
        network = TINY[:8] if self.random.random() < 0.7 or command[:1] in (["bench"], ["verify"]) else []
        self.refused_or_done([*command, "--config", "my.ini", *output, *steps, *network])

    def damage_bytes(self, content):
        place = self.random.randrange(len(content))
        end = min(len(content), place + self.random.choice([1, 4, 100, 4000]))
        return self.random.choice([
            lambda: content[:place], lambda: content[:place] + bytes([content[place] ^ (1 << self.random.randrange(8))]) +
            content[place + 1:], lambda: content[:place] + bytes(end - place) + content[end:],
            lambda: content[:place] + self.random.randbytes(end - place) + content[end:],
            lambda: content + self.random.randbytes(100), lambda: content[end:], lambda: b"",
            lambda: content.replace(b'"widths":[8,8,8]', b'"widths":[8,9,8]'),
            lambda: content.replace(b'"blocks":[1,1,1]', b'"blocks":[1,9,1]'),
            lambda: content.replace(b'"arch":"hamiltonian"', b'"arch":"hamiltonixn"')])()

    def damage_behind_checksums(self, path):
        """Through h5py: attributes and arrays that are wrong in themselves, in a file without checksums."""
        numbers = [-1, 0, 1.5, 2**63 - 1, 2**64 - 1, -2**63, float("nan"), float("inf"), 1e308, "text", [1, 2, 3],
                   json.dumps({"a": 1})]
        with h5py.File(path, "r+") as file:
            for name in [name for name in file if "checksum" in name]:
                del file[name]
            for name in [name for name in file.attrs if "checksum" in name]:
                del file.attrs[name]
            arrays, groups = [], []
            file.visititems(lambda name, item: (arrays if isinstance(item, h5py.Dataset) else groups).append(name))
            for item in [file[name] for name in arrays + groups]:
                for name in [name for name in item.attrs if "checksum" in name]:
                    del item.attrs[name]
            change = self.random.choice(["progress", "progress", "config", "config", "array", "shape", "type", "gone",
                                         "root", "extra"])
            if change == "progress":
                progress = file["progress"].attrs if "progress" in file else file.attrs
                name = self.random.choice(list(progress))
                progress[name] = self.random.choice(numbers)
            elif change == "config":
                config = json.loads(file.attrs["config"])
                name = self.random.choice(list(config))
                config[name] = self.random.choice([*[number for number in numbers if number == number], [8, 8, 100000000],
                                                   [1, 10**7, 1], [1, 1], [-1, 1, 1], None, True, {}, "", 10**30, 1e999,
                                                   [10**9, 10**9, 10**9], [0, 0, 0], "cifar100", "a\nb\x1b[31m"])
                text = json.dumps(config)
                del file.attrs["config"]
                file.attrs["config"] = self.random.choice([text, text, text, text[:-1], "[]", "null", "", "[" * 60000])
            elif change == "root":
                name = self.random.choice(list(file.attrs))
                del file.attrs[name]
                if self.random.random() < 0.7:
                    file.attrs[name] = self.random.choice(numbers)
            elif change == "extra":
                file["model/extra"] = [1.0]
                file["more"] = h5py.SoftLink("/more") if self.random.random() < 0.5 else h5py.ExternalLink("x.h5", "/")
            else:
                name = self.random.choice(arrays)
                values = file[name][()]
                if change == "array":
                    values.flat[self.random.randrange(values.size)] = self.random.choice(
                        [float("nan"), float("inf"), -1e38, 1e38, -1, 0])
                    file[name][()] = values
                else:
                    del file[name]
                    if change == "shape":
                        file[name] = self.random.choice([values.reshape(-1), values.reshape(-1)[:0], values[None]])
                    elif change == "type":
                        file[name] = self.random.choice([values.astype("f8"), values.astype("i4"), values.astype("S4"),
                                                         values.astype("f2"), values.astype(">f4")])
        return change

    def try_checkpoints(self):
        file = self.folder / "run" / self.random.choice(["checkpoint-2.h5", "checkpoint-2.h5", "best.h5"])
        if h5py and self.random.random() < 0.6:
            self.note(f"{file.name}: {self.damage_behind_checksums(file)} damaged through h5py, kept in the folder")
        else:
            file.write_bytes(self.damage_bytes(file.read_bytes()))
            self.note(f"{file.name}: bytes damaged, kept in the folder")
        name = f"run/{file.name}"
        for arguments in self.random.sample([
                ["info", name], ["info", name, "--check"], ["info", name, "--json", "-"],
                ["eval", "--checkpoint", name, "--threads", "1"], ["train", "--resume", name, *TINY, "--steps", "3"],
                ["train", "--resume", name, "--steps", "3", "--threads", "1"],
                ["train", "--resume", "auto", "--output", "run", "--steps", "3", *TINY],
                ["train", "--checkpoint", name, *TINY, "--steps", "1", "--output", "new"],
                ["gradient", "--checkpoint", name, "--threads", "1", "--samples", "0:4", "--output", "new.h5"]], 2):
            self.refused_or_done(arguments)

    def try_data(self):
        folder = self.folder / "cifar"
        name = self.random.choice(["data_batch_1.bin", "data_batch_5.bin", "test_batch.bin"])
        file = folder / name
        damage = self.random.choice(["cut", "record", "fifo", "giant", "giant-odd", "labels", "label", "folder", "gone",
                                     "empty", "device", "dangling", "more", "none", "dir-is-file", "loop", "other"])
        content = file.read_bytes()
        if damage not in ("cut", "record", "labels", "label", "empty", "more", "none"):
            file.unlink()
        if damage == "cut":
            file.write_bytes(content[:self.random.randrange(len(content))])
        elif damage == "record":
            file.write_bytes(content[:3073 * self.random.randrange(1, 3)])
        elif damage == "fifo":
            os.mkfifo(file)
        elif damage.startswith("giant"):
            with open(file, "wb") as stream:
                stream.truncate(3073 * self.random.choice([10**5, 10**7, 10**9]) + (damage == "giant-odd"))
        elif damage == "labels":
            file.write_bytes(b"".join(bytes([self.random.randrange(256)]) + content[at + 1:at + 3073]
                                      for at in range(0, len(content), 3073)))
        elif damage == "label":
            at = 3073 * self.random.randrange(len(content) // 3073)
            file.write_bytes(content[:at] + bytes([10 + self.random.randrange(246)]) + content[at + 1:])
        elif damage == "folder":
            file.mkdir()
        elif damage == "empty":
            file.write_bytes(b"")
        elif damage == "device":
            file.symlink_to(self.random.choice(["/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "/dev/tty"]))
        elif damage == "dangling":
            file.symlink_to("absent")
        elif damage == "loop":
            file.symlink_to(file.name)
        elif damage == "more":
            file.write_bytes(content * 5)
        elif damage == "other":
            file.write_bytes((self.folder / "run/checkpoint-2.h5").read_bytes())
        elif damage == "dir-is-file":
            shutil.rmtree(folder)
            folder.write_bytes(b"x")
        self.note(f"cifar/{name}: {damage}")
        dataset = self.random.choice(["cifar10"] * 8 + ["cifar100", "stl10"])
        data = ["--dataset", dataset, "--data-dir", "cifar"]
        self.refused_or_done(self.random.choice([
            ["train", *TINY[:8], *data, "--steps", "2", "--output", "new"],
            ["train", *TINY[:8], *data, "--steps", "4", "--output", "cifar-run", "--resume", "auto"],
            ["train", *TINY[:8], *data, "--steps", "2", "--output", "new", "--train-fraction", "0.3"],
            ["eval", "--checkpoint", "cifar-run/latest.h5", "--threads", "1", "--data-dir", "cifar"],
            ["eval", "--checkpoint", "cifar-run/latest.h5", "--threads", "1", "--data-dir", "cifar", "--split", "train"],
            ["gradient", *TINY[:4], "--threads", "1", *data, "--samples", self.random.choice(["0:4", "70:90", "15:17"]),
             "--output", "new.h5"],
            ["bench", *TINY[:8], *data, "--steps", "1"]]))

    def try_outputs(self):
        world = self.template.copy(self.folder / "world", self.random)
        world.populate()
        special = ["/dev/full", "/dev/null", "/dev/stdout", "/dev/fd/1", "/dev/fd/77", "x" * 300, "/proc/self/mem", "/dev",
                   "/proc/new", "deep/" * 900 + "x", "eval.h5/x", "\x1b[31mred", "a\nb", "", " ", "-", "--", "/sys/new"]
        for _ in range(2):
            arguments = world.any_command()
            if self.random.random() < 0.3:
                option = self.random.choice(["--output", "--json", "--resume", "--checkpoint", "--config"])
                if option in arguments:
                    arguments[arguments.index(option) + 1] = self.random.choice(special)
                else:
                    arguments += [option, self.random.choice(special)]
            self.commands.append(f"cd world; {shlex.join([self.revode, *arguments])}")
            try:
                before, after, done = world.run(arguments, LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.violations.append(f"hangs: no end within {LIMIT_SECONDS} s")
                self.outcomes.append("hang")
                return
            self.outcomes.append(str(done.returncode))
            self.said.append((done.stdout + done.stderr).decode(errors="replace")[-3000:])
            self.violations += world.violations(before, after, arguments, done)
            if self.violations:
                return
            world.learn(before, after, arguments)

    def try_streams(self):
        arguments = self.random.choice([self.some_command(), ["--help"], ["--version"], ["--print-config"],
                                        ["info", "absent"], ["train", "--seed", "x"], ["info", "run/latest.h5"]])
        redirection = self.random.choice(["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full",
                                          ">/dev/full 2>&1", ">fifo", "2>fifo", "| head -c 1 >head", "| true", "2>&1 | true",
                                          "</dev/full", ">&- 2>/dev/full", ">run/notes", "2>>run/notes", ">/dev/null"])
        if "fifo" in redirection:
            os.mkfifo(self.folder / "fifo")
            redirection += " & head -c 10 <fifo >head; wait $!"
        script = f"set -o pipefail; {shlex.join([self.revode, *arguments])} {redirection}"
        ended = self.execute(["bash", "-c", script])
        # A filter whose reader has seen enough ends as other filters do.
        is_filter = arguments[0] == "info" or not {"--help", "--version", "--print-config"}.isdisjoint(arguments)
        if is_filter and ended[0] == 128 + signal.SIGPIPE:
            self.outcomes.append("reader gone")
        else:
            self.judge(ended, streams=False)
        self.expect_no_temporaries()
        if "new" in arguments and ended[0] == 0:
            self.judge(self.execute([self.revode, "info", "--check", "new/latest.h5"]), allowed=(0,))

    def start(self, arguments, ranks=1):
        command = [*(["mpirun", "-n", str(ranks)] if ranks > 1 else []), self.revode, *last_of_each(arguments)]
        self.commands.append(shlex.join(command) + " &")
        return subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)

    def end_of(self, process):
        try:
            stdout, stderr = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, *process.communicate()
        return process.returncode, stdout, stderr

    def try_kills(self):
        self.random.choice([self.killed_hard, self.killed_hard, self.stopped, self.two_at_once])()

    def killed_hard(self):
        new, resume = ["--output", "killed"], ["--output", "killed", "--resume", "auto"]
        for number in range(self.random.choice([1, 1, 3])):
            process = self.start(["train", *LONG, *(resume if number > 0 else new)])
            moment = self.random.uniform(0, 2)
            time.sleep(moment)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.commands.append(f"sleep {moment:.3f}; kill -9 $!")
            if process.returncode not in (0, -signal.SIGKILL):
                self.violations.append(f"exit status {process.returncode} before it was killed")
                return
        self.judge(self.execute([self.revode, *last_of_each(["train", *LONG, "--steps", "700", *resume])]), allowed=(0,))
        self.judge(self.execute([self.revode, "info", "--check", "killed/latest.h5"]), allowed=(0,))
        self.expect_no_temporaries()

    def stopped(self):
        ranks = self.random.choice([1, 1, 1, 2])
        process = self.start(["train", *LONG, "--steps", "100000", "--output", "stopped"], ranks)
        deadline = time.monotonic() + LIMIT_SECONDS
        if self.random.random() < 0.7:
            log = self.folder / "stopped/metrics.jsonl"
            while not (log.exists() and log.read_bytes().count(b"\n") > 1) and time.monotonic() < deadline:
                time.sleep(0.01)
        moment = self.random.uniform(0, 1)
        time.sleep(moment)
        number = self.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        begun = (self.folder / "stopped/metrics.jsonl").exists()
        for _ in range(self.random.choice([1, 1, 2]) if ranks == 1 else 1):
            process.send_signal(number)
        self.commands.append(f"sleep {moment:.3f}; kill -{number.name[3:]} $!")
        ended = self.end_of(process)
        if not begun and ended[0] not in (None, 75):
            self.outcomes.append(f"early {number.name}: {ended[0]}")
            self.expect_no_temporaries_but_lock()
        else:
            # mpirun ends with a status of its own after a signal that it takes for itself.
            own = ranks == 1 or number == signal.SIGUSR1
            self.judge(ended, allowed=(75,) if own else (0, 1, 75), streams=ranks == 1, ranks=ranks > 1)
            self.expect_no_temporaries()
            if not list((self.folder / "stopped").glob("checkpoint-*.h5")):
                self.violations.append("stopped without a checkpoint")
        if (self.folder / "stopped").exists():
            self.judge(self.execute([self.revode, "train", *TINY, "--steps", "1", "--output", "stopped", "--resume", "auto",
                                     "--eval-every", "10", "--epochs", "1000"]), allowed=(0,))

    def expect_no_temporaries_but_lock(self):
        left = [path for path in strangers.look(self.folder) if os.path.basename(path).startswith(".")
                and not path.endswith(".revode-lock") and strangers.is_temporary(os.path.basename(path))]
        if left:
            self.note(f"left by a process that was killed: {', '.join(left)}")

    def two_at_once(self):
        resume = [[], ["--resume", "auto"]]
        processes = []
        for seed in ["1", "1", "2"][:self.random.choice([2, 2, 3])]:
            processes.append(self.start(["train", *LONG, "--steps", "150", "--output", "shared", "--seed", seed,
                                         *self.random.choice(resume)]))
            time.sleep(self.random.choice([0, 0, 0.05, 0.3]))
        for process in processes:
            self.judge(self.end_of(process), allowed=(0, 2))
        if "0" not in self.outcomes:
            self.violations.append("of runs that started together none had the folder")
        self.judge(self.execute([self.revode, "info", "--check", "shared/latest.h5"]), allowed=(0,))
        self.expect_no_temporaries()

    def try_ranks(self):
        ranks = self.random.choice([2, 2, 3])
        base = self.some_command()
        while base[0] == "verify":  # long on several ranks
            base = self.some_command()
        each = [(list(base), ".", {}) for _ in range(ranks)]
        odd = self.random.randrange(ranks)
        arguments = list(base)
        difference = self.random.choice(["option", "command", "folder", "data", "checkpoint", "config", "missing-config",
                                         "wrong-option", "environment", "help", "too-many", "killed", "none"])
        self.note(f"difference: {difference} on rank {odd}")
        folder, variables = ".", {}
        if difference == "option":
            arguments += ["--seed", str(self.random.randrange(5))]
        elif difference == "wrong-option":
            arguments += ["--" + self.option(), self.random.choice(["x", "-1", "", "a\nb"])]
        elif difference == "command":
            arguments = self.some_command()
        elif difference == "help":
            arguments += [self.random.choice(["--help", "--version", "--print-config"])]
        elif difference in ("folder", "data", "checkpoint", "config", "missing-config"):
            folder = "other"
            shutil.copytree(self.template.folder, self.folder / "other", symlinks=True)
            base = ["--config", "my.ini", *base[1:]] if "config" in difference else base[1:]
            command = each[0][0][0]
            each = [([command, *base], ".", {}) for _ in range(ranks)]
            arguments = [command, *base]
            (self.folder / "my.ini").write_text("smoothness = 0\n")
            if difference == "config":
                (self.folder / "other/my.ini").write_text("smoothness = 0.1\nseed = 3\n")
            elif difference == "data":
                for file in (self.folder / "other/cifar").iterdir():
                    file.write_bytes(b"\1" + file.read_bytes()[1:])
            elif difference == "checkpoint":
                file = self.folder / "other/run/checkpoint-2.h5"
                file.write_bytes(self.random.choice([self.damage_bytes(file.read_bytes()), (
                    self.folder / "run/checkpoint-1.h5").read_bytes()]))
        elif difference == "environment":
            variables = {"REVODE_INSTRUCTION_SET": self.random.choice(["SCALAR", "MMX", ""])}
        elif difference == "too-many":
            each = [([*base, *self.random.choice([["--blocks", "0,1,1"], ["--batch-size", "1"], ["--time-ranks", "2"],
                                                  ["--micro-batches", "1"]])], ".", {}) for _ in range(5)]
            each = [(last_of_each(words), place, names) for words, place, names in each]
            arguments, odd = each[0][0], 0
        each[odd] = (arguments, folder, variables)
        command = ["mpirun"]
        for number, (words, place, names) in enumerate(each):
            command += [":"] if number > 0 else []
            command += ["-n", "1", "--wdir", str(self.folder / place)]
            command += ["env", *[f"{name}={value}" for name, value in names.items()]] if names else []
            command += [self.revode, *words]
        before = strangers.look(self.folder)
        ended = self.execute(command)
        self.judge(ended, ranks=True)
        self.expect_no_trace(before, ended[0])
        differs = difference in ("option", "wrong-option", "missing-config")
        if ended[0] == 0 and differs and last_of_each(arguments) != last_of_each(each[odd - 1][0]):
            self.violations.append("ranks that were started differently end with success")


class Template(strangers.World):
    """Runs, results and data that each try begins with a copy of."""

    def make(self):
        self.make_runs()
        write_cifar10(self.folder / "cifar", 16)
        self.expect_success("train", *TINY[:8], *CIFAR, "--steps", "2", "--output", "cifar-run")
        self.random.seed(0)
        text = "".join(subprocess.run([self.revode, command, "--help"], capture_output=True, text=True).stdout
                       for command in ["train", "eval", "gradient", "bench", "info"])
        self.options = sorted(set(re.findall(r"^  --([a-z-]+)", text, re.MULTILINE)))


KINDS = {name[4:]: method for name, method in vars(Try).items() if name.startswith("try_")}
# A try of some kinds takes several seconds on several ranks.
SHARES = {"options": 30, "ini": 12, "checkpoints": 18, "data": 10, "outputs": 12, "streams": 8, "kills": 4, "ranks": 6}


def run_try(template, work, kind, number, seed):
    folder = Path(work) / f"{kind}-{number}"
    folder.mkdir()
    attempt = Try(template, folder, f"{seed}-{kind}-{number}", template.revode)
    if kind != "outputs":
        attempt.copy_template()
    try:
        KINDS[kind](attempt)
    except Exception as error:  # a fault of this script: told like a violation, so that it is seen
        attempt.violations.append(f"hostile_run itself: {type(error).__name__}: {error}")
    if not attempt.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return kind, number, attempt


def print_violation(kind, number, attempt, arguments):
    print(f"\n{kind} {number}: {'; '.join(dict.fromkeys(attempt.violations))}"[:1500])
    print(f"  again: tools/hostile_run.py {arguments.revode} --seed {arguments.seed} --kind {kind} --only {number}")
    print(f"  folder: {attempt.folder}")
    for command in attempt.commands:
        print("  " + (command if len(command) < 2000 else command[:1000] + " ... " + command[-500:]))
    for line in attempt.said[-1].splitlines()[-4:] if attempt.said else []:
        print("  | " + line[:300].encode("unicode_escape").decode())
    sys.stdout.flush()


def print_table(results):
    print(f"\n{'kind':12} {'tries':>6} {'wrong':>6}  outcomes (commands by exit status)")
    total = collections.Counter()
    for kind in KINDS:
        attempts = [attempt for one, _, attempt in results if one == kind]
        if not attempts:
            continue
        outcomes = collections.Counter(outcome for attempt in attempts for outcome in attempt.outcomes)
        wrong = sum(1 for attempt in attempts if attempt.violations)
        total.update(tries=len(attempts), wrong=wrong)
        print(f"{kind:12} {len(attempts):6} {wrong:6}  " +
              ", ".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items())))
    print(f"{'all':12} {total['tries']:6} {total['wrong']:6}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revode")
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--only", type=int, metavar="TRY", help="this one of the tries of --kind")
    parser.add_argument("--jobs", type=int, default=2, help="tries at once")
    arguments = parser.parse_args()
    if arguments.only is not None and not arguments.kind:
        parser.error("--only needs --kind")
    arguments.revode = os.path.abspath(arguments.revode)

    kinds = [arguments.kind] if arguments.kind else [kind for kind in KINDS if kind != "ranks" or shutil.which("mpirun")]
    whole = sum(SHARES[kind] for kind in kinds)
    plan = [(kind, number) for kind in kinds for number in range(max(1, arguments.tries * SHARES[kind] // whole))]
    if arguments.only is not None:
        plan = [(arguments.kind, arguments.only)]
    random.Random(arguments.seed).shuffle(plan)

    work = tempfile.mkdtemp(prefix="revode-hostile-")
    template = Template(Path(work) / "template", random.Random(arguments.seed), arguments.revode)
    template.make()
    print(f"seed {arguments.seed}, {len(plan)} tries in {work}" + ("" if h5py else "; without h5py"), flush=True)
    results = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        waiting = [pool.submit(run_try, template, work, kind, number, arguments.seed) for kind, number in plan]
        for done in concurrent.futures.as_completed(waiting):
            results.append(done.result())
            if results[-1][2].violations:
                print_violation(*results[-1], arguments)
    print_table(results)
    broken = any(attempt.violations for _, _, attempt in results)
    if not broken:
        shutil.rmtree(work, ignore_errors=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
