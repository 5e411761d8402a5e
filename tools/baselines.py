#!/usr/bin/env python3
"""Trains networks of other papers in PyTorch on the files, images and schedule of revode, to compare accuracies.

    tools/baselines.py --net resnet-32 --dataset cifar10 --data-dir data/cifar10 --train-fraction 0.1

    resnet-32   He et al. 2016: 464,154 parameters on CIFAR-10
    revnet-38   Gomez et al. 2017: 464,922 parameters on CIFAR-10

Options mean what they mean for revode, and have its defaults. The same --seed and --train-fraction choose the same training
images as in revode, normalised by the same means; --augment crops and mirrors by the same rule, with draws of its own.
Weight decay reaches kernels and the fully connected weight, as there.

The folder of the run holds config.ini, metrics.jsonl in revode's form (tools/plot_metrics.py draws both), and latest.pt,
written after each epoch. With --resume auto the same command goes on there. On one machine with the same threads a resumed
run draws what an uninterrupted one would have drawn.

Exit status: 0 done, 1 failed while running, 2 bad usage or input, 77 there is no PyTorch, 130 interrupted.
"""
import argparse
import datetime
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

NETS = ("resnet-32", "revnet-38")
LOG_EVERY = 10  # steps between step records, revode's default
EVALUATION_BATCH = 500
# Options that a resumed run may change: they enter no number, or only say when to stop.
FREE = ("data-dir", "epochs", "eval-every", "threads", "output", "resume")


class BaselineError(Exception):
    """One sentence for the user."""


def need_torch():
    if importlib.util.find_spec("torch") and importlib.util.find_spec("numpy"):
        return
    # Debian's modules belong to Debian's python, which need not be the first on the PATH.
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3") and os.path.exists("/usr/bin/python3"):
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])
    print("SKIPPED: needs torch and numpy (Debian: python3-torch)", file=sys.stderr)
    sys.exit(77)


def number(kind, least, most=math.inf, above=False):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or above and value == least:
            bounds = f"{'above' if above else 'at least'} {least}" + (f" and at most {most}" if most < math.inf else "")
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"found '{text}', expected {what}, {bounds}")
        return value
    return parse


def epoch_list(text):
    if text == "none":
        return []
    try:
        epochs = [int(word) for word in text.split(",")]
    except ValueError:
        epochs = []
    if not epochs or min(epochs) < 0 or epochs != sorted(set(epochs)):
        raise argparse.ArgumentTypeError(f"found '{text}', expected ascending epochs as in 80,120,160, or none")
    return epochs


def parse(words):
    parser = argparse.ArgumentParser(prog="tools/baselines.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    default = "default %(default)s"
    add("--net", choices=NETS, required=True)
    add("--dataset", choices=("cifar10", "cifar100"), default="cifar10", help=default)
    add("--data-dir", metavar="DIR", required=True, help="folder that holds the dataset's binary files")
    add("--train-fraction", type=number(float, 0, 1, above=True), default=1.0, metavar="F",
        help="train on this share of each class (default 1)")
    add("--augment", choices=("on", "off"), default="on", help=default)
    add("--batch-size", type=number(int, 1), default=100, metavar="N", help=default)
    add("--epochs", type=number(int, 1), default=200, metavar="N", help=default)
    add("--learning-rate", type=number(float, 0, above=True), default=0.1, metavar="R", help=default)
    add("--lr-decay-epochs", type=epoch_list, default=[80, 120, 160], metavar="A,B,..",
        help="epochs from which on the rate is decayed; none: never (default 80,120,160)")
    add("--lr-decay", type=number(float, 0, above=True), default=0.1, metavar="F", help=default)
    add("--momentum", type=number(float, 0, 1), default=0.9, metavar="M", help=default)
    add("--weight-decay", type=number(float, 0), default=2e-4, metavar="A", help=default)
    add("--eval-every", type=number(int, 0), default=1, metavar="N",
        help="epochs between evaluations on the test split; 0: at the end alone (default 1)")
    add("--seed", type=number(int, 0, 2**64 - 1), default=1, metavar="N", help=default)
    add("--threads", type=number(int, 1), default=len(os.sched_getaffinity(0)), metavar="N",
        help="default the cores it may use")
    add("--output", metavar="DIR", help="folder of the run (default runs/<net>-<dataset>)")
    add("--resume", choices=("auto",), help="auto: go on with the run in --output, if there is one")
    given = parser.parse_args(words)
    given.output = given.output or f"runs/{given.net}-{given.dataset}"
    return given


def as_text(options):
    """The options by name, as config.ini holds them."""
    def text(value):
        if isinstance(value, list):
            return ",".join(map(str, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)
    return {name.replace("_", "-"): text(value) for name, value in vars(options).items() if value is not None}


def rate_of(options, epoch):
    return options.learning_rate * options.lr_decay ** sum(epoch >= first for first in options.lr_decay_epochs)


def revision():
    """That of these scripts, from git."""
    told = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=Path(__file__).parent,
                          capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


class Folder:
    """The files of a run. A file under its own name is always whole."""

    def __init__(self, options):
        self.path = Path(options.output)
        self.checkpoint, self.metrics = self.path / "latest.pt", self.path / "metrics.jsonl"
        if self.metrics.exists() and not options.resume:
            raise BaselineError(f"--output {self.path}: holds the results of another run; choose another folder, or go on "
                                "with that run by --resume auto")
        self.path.mkdir(parents=True, exist_ok=True)

    def write(self, name, write):
        part = self.path / (name + ".part")
        write(part)
        part.replace(self.path / name)

    def begin(self, options, step):
        """Forgets what was written after the checkpoint at `step`."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        kept = [line for line in lines if step > 0 and self.step_of(line) <= step]
        self.write("metrics.jsonl", lambda part: part.write_text("".join(line + "\n" for line in kept), encoding="utf-8"))
        text = "# Written by tools/baselines.py at each start of the run in this folder.\n\n"
        text += "".join(f"{name} = {value}\n" for name, value in as_text(options).items())
        self.write("config.ini", lambda part: part.write_text(text, encoding="utf-8"))

    @staticmethod
    def step_of(line):
        try:
            return json.loads(line)["step"]
        except (ValueError, KeyError):
            return math.inf  # cut off

    def record(self, **values):
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, separators=(",", ":")) + "\n")


class Trainer:
    def __init__(self, options):
        import torch
        import baseline_data
        import baseline_networks
        self.torch, self.data, self.options = torch, baseline_data, options
        torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.training, self.test = baseline_data.load(options.dataset, options.data_dir, options.train_fraction,
                                                      options.seed)
        self.steps_per_epoch = len(self.training.labels) // options.batch_size
        if self.steps_per_epoch == 0:
            raise BaselineError(f"--batch-size {options.batch_size}: there are {len(self.training.labels)} training "
                                "images; expected at most as many")
        network = baseline_networks.make(options.net, baseline_data.DATASETS[options.dataset]["classes"])
        self.num_parameters = baseline_networks.num_parameters(network)
        # oneDNN's convolutions are faster so.
        self.network = network.to(memory_format=torch.channels_last)
        decayed, others = network.decayed()
        self.optimizer = torch.optim.SGD([{"params": decayed, "weight_decay": options.weight_decay}, {"params": others}],
                                         lr=options.learning_rate, momentum=options.momentum)
        self.epoch, self.step, self.best, self.seconds = 0, 0, 0.0, 0.0
        self.folder = Folder(options)

    def resume(self):
        """Goes on from latest.pt, where it is."""
        if not self.folder.checkpoint.exists():
            return
        try:
            saved = self.torch.load(self.folder.checkpoint, map_location="cpu")
            then = saved["options"]
        except Exception as error:  # whatever a foreign or damaged file may lead to
            raise BaselineError(f"cannot read {self.folder.checkpoint}: {error}") from None
        now = as_text(self.options)
        for name in now.keys() | then.keys():
            if name not in FREE and now.get(name) != then.get(name):
                raise BaselineError(f"--{name} {now.get(name)}: the run in {self.folder.path} has {then.get(name)}; "
                                    "expected the same, or another folder for --output")
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch, self.step, self.best, self.seconds = (saved[name] for name in ("epoch", "step", "best", "seconds"))

    def save(self):
        state = {"options": as_text(self.options), "network": self.network.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "epoch": self.epoch, "step": self.step, "best": self.best,
                 "seconds": self.seconds}
        self.folder.write("latest.pt", lambda part: self.torch.save(state, part))

    def images(self, array):
        return self.torch.from_numpy(array).contiguous(memory_format=self.torch.channels_last)

    def evaluate(self):
        """(mean loss, accuracy) on the test split"""
        torch, size = self.torch, len(self.test.labels)
        loss_sum, correct = 0.0, 0
        self.network.eval()
        with torch.no_grad():
            for first in range(0, size, EVALUATION_BATCH):
                part = slice(first, min(first + EVALUATION_BATCH, size))
                labels = torch.from_numpy(self.test.labels[part])
                logits = self.network(self.images(self.test.normalised(part)))
                loss_sum += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                correct += (logits.argmax(dim=1) == labels).sum().item()
        return loss_sum / size, correct / size

    def take_step(self, batch, draws):
        """(loss, accuracy) of the mini-batch before the update"""
        torch = self.torch
        array = self.training.augmented(batch, draws[batch]) if draws is not None else self.training.normalised(batch)
        labels = torch.from_numpy(self.training.labels[batch])
        logits = self.network(self.images(array))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        if not math.isfinite(loss.item()):
            raise BaselineError(f"the loss of step {self.step} is {loss.item()}; a smaller --learning-rate may help")
        return loss.item(), (logits.argmax(dim=1) == labels).sum().item() / len(labels)

    def train_epoch(self):
        options, size = self.options, len(self.training.labels)
        order = self.data.epoch_order(size, options.seed, self.epoch)
        draws = self.data.crops(size, options.seed, self.epoch) if options.augment == "on" else None
        rate = rate_of(options, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        sums, logged, count = [0.0, 0.0], time.monotonic(), 0
        # As in revode the last incomplete mini-batch is dropped.
        for batch in order[:self.steps_per_epoch * options.batch_size].reshape(-1, options.batch_size):
            result = self.take_step(batch, draws)
            sums, count = [a + b for a, b in zip(sums, result)], count + 1
            if self.step % LOG_EVERY == 0:
                now = time.monotonic()
                self.seconds += now - logged
                self.folder.record(kind="step", epoch=self.epoch, step=self.step, loss=result[0], accuracy=result[1],
                                   learning_rate=rate, images_per_second=count * options.batch_size / (now - logged),
                                   seconds=self.seconds)
                logged, count = now, 0
        self.seconds += time.monotonic() - logged
        self.end_epoch(rate, *(total / self.steps_per_epoch for total in sums))

    def end_epoch(self, rate, loss, accuracy):
        options = self.options
        record = {"kind": "epoch", "epoch": self.epoch, "step": self.step, "train_loss": loss, "train_accuracy": accuracy}
        self.epoch += 1
        said = f"epoch {self.epoch - 1} done: train loss {loss:.4f} accuracy {accuracy:.3f}"
        if options.eval_every and self.epoch % options.eval_every == 0 or self.epoch == options.epochs:
            record["test_loss"], record["test_accuracy"] = self.evaluate()
            self.best = max(self.best, record["test_accuracy"])
            record["best_accuracy"] = self.best
            said += f", test loss {record['test_loss']:.4f} accuracy {record['test_accuracy']:.4f}"
        # In this order: a resumed run forgets records behind its checkpoint, but cannot make up for one that is missing.
        self.folder.record(**record, learning_rate=rate, seconds=self.seconds)
        self.save()
        print(f"{said}, rate {rate:g}", flush=True)

    def run(self):
        options = self.options
        if options.resume:
            self.resume()
        self.folder.begin(options, self.step)
        now = datetime.datetime.now(datetime.timezone.utc)
        self.folder.record(kind="start", epoch=self.epoch, step=self.step, version="tools/baselines.py",
                           revision=revision(), date=now.strftime("%Y-%m-%dT%H:%M:%SZ"), backend=f"PyTorch {self.torch.__version__}",
                           threads=options.threads, parameters=self.num_parameters, options=as_text(options))
        print(f"{options.net}: {self.num_parameters:,} parameters; {options.dataset}: {len(self.training.labels):,} "
              f"training images, {len(self.test.labels):,} test images; PyTorch {self.torch.__version__}, threads: "
              f"{options.threads}")
        print(f"training from epoch {self.epoch} to epoch {options.epochs}; files in {options.output}", flush=True)
        while self.epoch < options.epochs:
            self.train_epoch()
        test_loss, test_accuracy = self.evaluate()
        self.folder.record(kind="end", epoch=self.epoch, step=self.step, test_loss=test_loss,
                           test_accuracy=test_accuracy)
        print(f"test accuracy {test_accuracy:.4f} (best {self.best:.4f})")


def interrupt(signum, frame):
    raise KeyboardInterrupt


def main():
    options = parse(sys.argv[1:])
    need_torch()
    from baseline_data import DataError
    signal.signal(signal.SIGTERM, interrupt)
    try:
        Trainer(options).run()
    except (BaselineError, DataError) as error:
        print(f"baselines: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"baselines: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("baselines: interrupted; the same command with --resume auto goes on after the last whole epoch",
              file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
