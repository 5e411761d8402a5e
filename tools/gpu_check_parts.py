"""What gpu_check checks: one function a part, each of which takes the processes that it may start and returns figures and
what matters of them in a few words. Sizes are such that all of it takes some minutes on a GPU."""
import filecmp
import itertools
import json
import re
import shutil
import sys
from pathlib import Path

from gpu_check_bundle import TOOLS, toolkit_folders
from gpu_check_run import PartFailed, PartSkipped, reason

# Under a sanitizer a test takes some ten times as long, and that of a sweep of all shapes too long; racecheck is the slower.
MEMCHECK_FILTER = "Device/*:CudaDevice.*:-*RefusesShapes*"
RACECHECK_FILTER = "Device/*:-*RefusesShapes*:*RetreatRestores*:*StoreEquals*:*ResultsDoNotDepend*:*ImagesDoNot*"

SMALL = ("--blocks", "2,1,1")
GRIDS = ((1, 1), (2, 1), (1, 2), (2, 2))
# After three epochs of the built-in images seeds differ by about a point; another rounding acts as another seed does.
ACCURACY_TOLERANCE = 0.04
LEAST_ACCURACY = 0.8

PRECISIONS = ("fp32", "tf32", "bf16")
BENCHES = (("hamiltonian", 74, 100), ("leapfrog", 62, 100), ("midpoint", 62, 100), ("hamiltonian", 1202, 32),
           ("hamiltonian", 74, 512))
NO_TORCH = 77
USAGE = 2


class Parts:
    """The parts over one bundle, in one folder of results. On a backend other than cuda they are a rehearsal."""

    def __init__(self, bundle, folder, backend, data_dir):
        self.bundle, self.folder, self.backend, self.data_dir = bundle, folder, backend, data_dir
        self.on_gpu = backend == "cuda"
        self.environment = bundle.environment()
        self.device = {}

    def list(self):
        """Name, limit in seconds, function. Several times what it should take: a part that hangs leaves time for others."""
        limits = [("device", 60, self.look_at_device), ("tests", 90, self.run_tests), ("memcheck", 150, self.memcheck),
                  ("racecheck", 90, self.racecheck), ("verify", 90, self.verify), ("same-bits", 90, self.same_bits),
                  ("accuracy", 120, self.accuracy), ("bench", 120, self.bench), ("plan", 60, self.plan),
                  ("pytorch", 240, self.compare_with_pytorch)]
        return [(name, limit if self.on_gpu else 3 * limit, function) for name, limit, function in limits]

    # ---- How revode is called -------------------------------------------------------------------------------------------

    def command(self, ranks, command, *options):
        launcher = [self.bundle.program("mpirun"), "-n", ranks] if ranks > 1 else []
        return [*launcher, self.bundle.program("revode"), command, *options]

    def revode(self, processes, ranks, command, *options):
        return processes.expect(*self.command(ranks, command, *options), environment=self.environment)

    def new_folder(self, name):
        """Of a run, which does not go into one that is there."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def train(self, processes, name, ranks, backend, *options):
        """Folder and result of a run."""
        output, result = self.new_folder(name), self.folder / f"{name}.json"
        self.revode(processes, ranks, "train", "--backend", backend, "--progress", "off", "--output", output,
                    "--json", result, *options)
        return output, json.loads(result.read_text())

    # ---- The parts ------------------------------------------------------------------------------------------------------

    def look_at_device(self, processes):
        if not self.on_gpu:
            raise PartSkipped("rehearsal: no GPU is asked for")
        row = processes.expect("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
        name, driver, memory = (text.strip() for text in row.strip().splitlines()[0].split(","))
        self.device.update(name=name, driver=driver, memory=memory)
        if nvcc := shutil.which("nvcc"):
            release = re.search(r"release [\d.]+", processes.expect(nvcc, "--version"))
            self.device["toolkit"] = release[0] if release else "unknown"
        if self.bundle.cuda_missing:
            raise PartFailed(f"found no {', '.join(self.bundle.cuda_missing)}, in no CUDA toolkit, no wheel of PyTorch's and "
                             "not by ldconfig; the plug-in needs them")
        output = self.revode(processes, 1, "train", *SMALL, "--steps", 3, "--train-fraction", 0.1, "--progress", "off",
                             "--backend", self.backend, "--output", self.new_folder("device"))
        # What computes: the GPU by its name.
        line = re.search(r"^(?!cpu\b).*\bon 1 rank, .*", output, re.MULTILINE)
        if not line:
            raise PartFailed("the start-up block of revode names no GPU")
        self.device["revode"] = line[0]
        return dict(self.device), f"{name}, driver {driver}, {memory}"

    def gtest(self, output):
        counts = {key: sum(int(number) for number in re.findall(rf"^\[  {word} *\] (\d+) tests?\b", output, re.MULTILINE))
                  for key, word in (("passed", "PASSED"), ("failed", "FAILED"), ("skipped", "SKIPPED"))}
        return counts, ", ".join(f"{count} {key}" for key, count in counts.items())

    def run_tests(self, processes):
        status, output = processes.run(self.bundle.program("cuda_device_test"), environment=self.environment)
        counts, text = self.gtest(output)
        if status != 0 or counts["failed"]:
            names = re.findall(r"^\[  FAILED  \] (\S+)$", output, re.MULTILINE)
            raise PartFailed(f"{text}; status {status}" + (f"; first failed: {names[0]}" if names else ""), counts)
        if not self.on_gpu and not counts["passed"]:
            raise PartSkipped(f"rehearsal: {text}")
        if skipped := re.search(r"\[ RUN      \] CudaDevice\.IsThere\n(?:.*Skipped\n)?(.*)\n\[  SKIPPED \]", output):
            raise PartFailed(f"no GPU was found: {skipped[1]}", counts)
        if not counts["passed"]:
            raise PartFailed(f"no test ran: {text}", counts)
        return counts, text

    def sanitize(self, processes, tool, tests, summary, *options):
        """The tests under a tool of compute-sanitizer, whose last line counts what it found."""
        if not self.on_gpu:
            raise PartSkipped("rehearsal: compute-sanitizer needs a GPU")
        sanitizer = shutil.which("compute-sanitizer") or next(
            (path for folder in toolkit_folders()
             for path in (folder.parent / "bin/compute-sanitizer", folder.parent / "compute-sanitizer/compute-sanitizer")
             if path.exists()), None)
        if not sanitizer:
            raise PartSkipped("found no compute-sanitizer on the PATH, nor in the CUDA toolkit")
        # The program itself: a script around it would be what is looked at.
        status, output = processes.run(
            self.bundle.program("in_bundle"), sanitizer, "--tool", tool, "--error-exitcode", 9, "--print-limit", 20, *options,
            self.bundle.folder / "programs/cuda_device_test", f"--gtest_filter={tests}", environment=self.environment)
        if "Device not supported" in output:
            raise PartSkipped("compute-sanitizer says 'Device not supported': virtual machines may withhold what it needs")
        counts, text = self.gtest(output)
        found = re.search(summary, output)
        if not found:
            raise PartFailed(f"{tool} ended with status {status} and gave no summary; {text}", counts)
        figures = {**counts, "found": int(found[1])}
        text = f"{found[0].strip()}; {text}"
        if status != 0 or figures["found"] or not counts["passed"]:
            raise PartFailed(text, figures)
        return figures, text

    def memcheck(self, processes):
        # Of calls that fail revode tells itself; those that CUDA's libraries make to find out what there is are no errors.
        return self.sanitize(processes, "memcheck", MEMCHECK_FILTER, r"ERROR SUMMARY: (\d+) errors?.*",
                             "--report-api-errors", "no")

    def racecheck(self, processes):
        return self.sanitize(processes, "racecheck", RACECHECK_FILTER, r"RACECHECK SUMMARY: (\d+) hazards?.*")

    def verify(self, processes):
        figures, broken = {}, []
        for ranks in (1, 2, 4):
            # Four ranks need a block each.
            size = ("--depth", 74) if ranks == 1 else ("--blocks", "2,2,2")
            file = self.folder / f"verify-{ranks}.json"
            file.unlink(missing_ok=True)
            status, output = processes.run(
                *self.command(ranks, "verify", "--backend", self.backend, *size, "--batch-size", 8, "--json", file),
                environment=self.environment)
            if not file.exists():
                raise PartFailed(f"ranks: {ranks}; status {status}: {reason(output)}", figures)
            checks = json.loads(file.read_text())["checks"]
            figures[f"ranks_{ranks}"] = checks
            broken += [f"ranks: {ranks}; {check['name']}: {check['found']}" for check in checks if not check["passed"]]
            if status != 0 and not broken:
                raise PartFailed(f"ranks: {ranks}; status {status} though all checks passed", figures)
        total = sum(len(checks) for checks in figures.values())
        if broken:
            raise PartFailed(f"{len(broken)} of {total} checks failed; {broken[0]}", figures)
        return figures, f"{total} checks on 1, 2 and 4 ranks"

    def same_bits(self, processes):
        runs = [(f"{time}x{data}", time * data, ("--time-ranks", time, "--data-ranks", data)) for time, data in GRIDS]
        runs.append(("store", 1, ("--activations", "store")))
        files, different = {}, []
        for name, ranks, options in runs:
            output, _ = self.train(processes, f"same-bits-{name}", ranks, self.backend, "--blocks", "2,2,2", "--steps", 12,
                                   "--batch-size", 32, "--micro-batches", 4, "--train-fraction", 0.1,
                                   "--partition", "flops", *options)
            files[name] = output / "latest.h5"
            if not filecmp.cmp(files["1x1"], files[name], shallow=False):
                different.append(name)
        figures = {"runs": list(files), "different_from_1x1": different, "bytes": files["1x1"].stat().st_size}
        if different:
            raise PartFailed(f"checkpoints that differ from that of grid 1x1: {', '.join(different)}", figures)
        return figures, f"checkpoints of {figures['bytes']} bytes equal on {len(GRIDS)} grids, and stored = rebuilt"

    def accuracy(self, processes):
        figures = {}
        for number, backend in enumerate((self.backend, "cpu")):
            _, result = self.train(processes, f"accuracy-{number}-{backend}", 1, backend, *SMALL, "--epochs", 3,
                                   "--lr-decay-epochs", 2)
            figures["here" if number == 0 else "cpu"] = {key: result[key] for key in ("accuracy", "loss", "images_per_second")}
        here, cpu = figures["here"]["accuracy"], figures["cpu"]["accuracy"]
        text = f"{self.backend} {here:.3f}, cpu {cpu:.3f}"
        if abs(here - cpu) > ACCURACY_TOLERANCE or here < LEAST_ACCURACY:
            raise PartFailed(f"{text}; expected at least {LEAST_ACCURACY} and no more than {ACCURACY_TOLERANCE} apart", figures)
        if self.data_dir:
            _, result = self.train(processes, "accuracy-cifar10", 1, self.backend, "--depth", 74, "--dataset", "cifar10",
                                   "--data-dir", self.data_dir, "--epochs", 1, "--micro-batches", 1)
            figures["cifar10"] = {key: result[key] for key in ("accuracy", "loss", "images_per_second")}
            text += f"; CIFAR-10 after an epoch {result['accuracy']:.3f}, {result['images_per_second']:.0f} images/s"
        return figures, text

    def bench(self, processes):
        figures, texts = {}, []
        # The CPU multiplies in fp32 alone.
        precisions = PRECISIONS if self.on_gpu else PRECISIONS[:1]
        for precision, (arch, depth, batch) in itertools.product(precisions, BENCHES):
            name = f"{arch}-{depth}-batch-{batch}-{precision}"
            file = self.folder / f"bench-{name}.json"
            try:
                # One micro-batch: on one rank more of them only make the batches of the GPU smaller.
                self.revode(processes, 1, "bench", "--backend", self.backend, "--arch", arch, "--depth", depth,
                            "--batch-size", batch, "--micro-batches", 1, "--steps", 10 if self.on_gpu else 1,
                            "--precision", precision, "--json", file)
            except PartFailed as failure:
                raise PartFailed(f"{name}: {failure}", figures) from None
            figures[name] = json.loads(file.read_text())
            texts.append(f"{arch}-{depth} {precision} {figures[name]['images_per_second']:.0f}" +
                         (f" (batch {batch})" if batch > 100 else ""))
        return figures, f"images/s: {', '.join(texts)}"

    def plan(self, processes):
        """The costs of layers here, in a file for plans of other machines; and such a plan beside what it took."""
        network = ("--depth", 1202) if self.on_gpu else SMALL
        size = (*network, "--batch-size", 100, "--micro-batches", 1, "--steps", 5 if self.on_gpu else 1)
        machine, measured, planned = (self.folder / name for name in ("machine.json", "measured.json", "planned.json"))
        self.revode(processes, 1, "bench", "--backend", self.backend, *size, "--machine-file", machine, "--json", measured)
        self.revode(processes, 1, "plan", "--ranks", 1, "--machine", machine, *size, "--json", planned)
        seconds = [json.loads(file.read_text())["step_seconds"] for file in (measured, planned)]
        figures = {"measured_step_seconds": seconds[0], "planned_step_seconds": seconds[1], "machine_file": str(machine)}
        return figures, f"a step planned from {machine.name} {1e3 * seconds[1]:.1f} ms, measured {1e3 * seconds[0]:.1f} ms"

    def compare_with_pytorch(self, processes):
        # One after the other: torch.compile may use up the time. The CPU is asked for by saying nothing.
        figures, texts = {}, []
        for precision in PRECISIONS if self.on_gpu else PRECISIONS[:1]:
            size = (["--device", "cuda", "--precision", precision, "--arch", "hamiltonian", "--depth", 74, "--batch", 100,
                     "--rounds", 3, "--steps", 10, "--variants", "plain,compiled"] if self.on_gpu
                    else ["--arch", "hamiltonian", "--blocks", "1,1,1", "--batch", 16, "--rounds", 1, "--steps", 1])
            try:
                figures[precision] = self.compare_in(processes, precision, size)
            except PartFailed as failure:
                raise PartFailed(f"{precision}: {failure}", figures) from None
            texts += [f"{name} {result['revode_is_faster_by']:.2f}" for name, result in figures[precision]["results"].items()
                      if "revode_is_faster_by" in result]
        return figures, f"revode's speed as a multiple of PyTorch's: {', '.join(texts)}"

    def compare_in(self, processes, precision, size):
        """What compare_pytorch.py found."""
        file = self.folder / f"pytorch-{precision}.json"
        file.unlink(missing_ok=True)
        status, output = processes.run(sys.executable, TOOLS / "compare_pytorch.py", "--revode", self.bundle.program("revode"),
                                       *size, "--json", file, environment=self.environment)
        if status == NO_TORCH:
            raise PartSkipped(reason(output).removeprefix("SKIPPED: "))
        if status == USAGE:
            raise PartFailed(f"compare_pytorch.py refused its options: {reason(output)}")
        if status != 0 or not file.exists():
            raise PartFailed(f"compare_pytorch.py ended with status {status}: {reason(output)}")
        return json.loads(file.read_text())
