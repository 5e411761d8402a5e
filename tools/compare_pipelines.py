"""compare_pytorch on several ranks: rounds in which revode's pipeline and PyTorch's take training steps in turn."""
import json
import platform
import shutil
import statistics
import tempfile
from pathlib import Path

from comparison_processes import CompareError, Ranks, Worker, note_load
from pipeline_report import cut_of, describe_cut, step_seconds, summarize, table
from pytorch_comparison import (bench_revode, compare_gradients, gradient_of_pytorch, gradient_of_revode, prepare,
                                read_gradient)

# It would couple the weights of neighbouring ranks, which torch.distributed.pipelining has no place for.
SMOOTHNESS = 0


def cut_network(options, folder, config):
    """revode's cut, which is written into model.json for PyTorch's ranks."""
    per_block = 2 if config["arch"] == "hamiltonian" else 1
    cut = cut_of(bench_revode(options, folder, options.micro_batches[0], SMOOTHNESS, steps=1), per_block)
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cut": cut}))
    print(f"blocks: {describe_cut(cut, per_block)}", flush=True)
    return cut


class Pipeline:
    """PyTorch's ranks with one number of micro-batches, eager or compiled."""

    def __init__(self, options, folder, mode, micro_batches):
        self.folder, self.mode, self.name = folder, mode, f"{mode}-{micro_batches}"
        self.ranks = Ranks([Worker(f"{mode}, {micro_batches} micro-batches, rank {rank}", options.threads,
                                   "pytorch_pipeline.py", folder, mode, micro_batches, rank, options.threads,
                                   options.time_limit) for rank in range(options.ranks)], options.time_limit)

    def compile(self):
        """What was wrong, or nothing."""
        failures = [answer["failure"] for answer in self.ranks.ask(do="compile")]
        return next((failure for failure in failures if failure), None)

    def gradient(self):
        """Loss, and gradients by (array, row)."""
        losses = [answer["loss"] for answer in self.ranks.ask(do="gradient")]
        gradients = {}
        for rank in range(len(losses)):
            gradients.update(read_gradient(self.folder / f"{self.name}-{rank}.npz"))
        return losses[-1], gradients


def start_pipelines(options, folder, micro_batches, left_out):
    """Those that work; left_out[name] is the reason where torch.compile fails."""
    pipelines = []
    try:
        for mode in options.variants:
            pipelines.append(Pipeline(options, folder, mode, micro_batches))
            failure = pipelines[-1].compile() if mode == "compiled" else None
            if failure:
                pipelines.pop().ranks.close()
                left_out[f"{mode}, {micro_batches} micro-batches"] = failure
                print(f"  note: torch.compile fails here, so that row is left out: {failure}", flush=True)
            else:
                pipelines[-1].ranks.ask(do="join")
    except BaseException:
        close(pipelines)
        raise
    return pipelines


def close(pipelines):
    for each in pipelines:
        each.ranks.close()


def check_gradients(options, folder, micro_batches, pipelines):
    """Against PyTorch without a pipeline, in double precision, micro-batch by micro-batch."""
    oracle = Worker("plain-double", options.threads, "pytorch_training.py", "plain", folder, options.threads, "double",
                    "cpu", "channels_last")
    try:
        expected = gradient_of_pytorch(oracle, folder, micro_batches)
    finally:
        oracle.close()
    print(f"  {'no pipeline':<18} loss {expected[0]:.7f} in double precision", flush=True)
    found = gradient_of_revode(options, folder, micro_batches, SMOOTHNESS)
    errors = {"revode": compare_gradients("revode", found, expected)}
    for each in pipelines:
        errors[each.mode] = compare_gradients(each.mode, each.gradient(), expected)
    return errors


def time_round(options, folder, cut, micro_batches, pipelines, seconds, memory):
    bench = bench_revode(options, folder, micro_batches, SMOOTHNESS)
    if cut_of(bench, 2 if bench["arch"] == "hamiltonian" else 1) != cut:
        raise CompareError(f"revode cuts the network differently with {micro_batches} micro-batches; compare them one by one")
    seconds.setdefault("revode", []).append(bench["step_seconds"])
    memory["revode"] = {"peak_memory_bytes": bench["peak_memory_bytes"]}
    for each in pipelines:
        answers = each.ranks.ask(do="steps", count=options.steps)
        seconds.setdefault(each.mode, []).append(statistics.median(step_seconds(answers)))
        memory[each.mode] = {key: [answer[key] for answer in answers]
                             for key in ("peak_memory_bytes", "base_memory_bytes")}
        memory[each.mode]["torch"] = answers[0]["torch"]
    return bench


def time_rounds(options, folder, cut, pipelines):
    """Results by program, by number of micro-batches; and the last of revode's reports."""
    for each in (each for group in pipelines.values() for each in group):
        each.ranks.ask(do="steps", count=2)  # warm up, as `revode bench` does by itself
        each.ranks.ask(do="forget_peak")
    seconds = {number: {} for number in pipelines}
    memory = {number: {} for number in pipelines}
    for count in range(1, options.rounds + 1):
        for number, group in pipelines.items():
            bench = time_round(options, folder, cut, number, group, seconds[number], memory[number])
            print(f"  round {count}, {number} micro-batches: " + ", ".join(
                f"{name} {1e3 * of_rounds[-1]:.0f} ms" for name, of_rounds in seconds[number].items()), flush=True)
    results = {}
    for number, rounds in seconds.items():
        results[number] = {name: {**result, **memory[number][name]}
                           for name, result in summarize(rounds, options.batch).items()}
    return results, bench


def print_report(options, config, results, bench, left_out):
    workers = [result for of_programs in results.values() for name, result in of_programs.items() if name != "revode"]
    version = workers[0]["torch"] if workers else "none"
    print(f"\n{config['arch']}, blocks {config['blocks']}, widths {config['widths']}, images {options.image_size} x "
          f"{options.image_size}, batch {options.batch}, fp32, "
          f"{options.ranks} ranks with {options.threads} thread{'s' * (options.threads > 1)} each; medians (least .. most) "
          f"of {options.rounds} rounds of {options.steps} steps")
    print(f"{bench['processor']}; {bench['version']}, revision {bench['revision']}, {bench['backend']}, "
          f"{bench['schedule']}; PyTorch {version}, Schedule1F1B, gloo")
    print(*table(results), sep="\n")
    for name, reason in left_out.items():
        print(f"{name}: left out, since torch.compile fails ({reason})")
    if workers:
        base = max(max(result["base_memory_bytes"]) for result in workers)
        print(f"A rank of PyTorch takes {base / 2**20:.0f} MiB before it holds a network; its peak is that after the warm-up.")


def compare(options):
    folder = Path(tempfile.mkdtemp(prefix="revode-compare-"))
    pipelines, errors, left_out = {}, {}, {}
    try:
        config = prepare(options, folder, SMOOTHNESS)
        cut = cut_network(options, folder, config)
        for number in options.micro_batches:
            print(f"loss and gradient of {options.batch} samples in {number} micro-batches", flush=True)
            pipelines[number] = start_pipelines(options, folder, number, left_out)
            errors[number] = check_gradients(options, folder, number, pipelines[number])
        print("training steps", flush=True)
        note_load(options.ranks * options.threads)
        results, bench = time_rounds(options, folder, cut, pipelines)
        print_report(options, config, results, bench, left_out)
        if options.json:
            result = {"arch": config["arch"], "blocks": config["blocks"], "widths": config["widths"], "cut": cut,
                      "image_size": options.image_size, "batch_size": options.batch, "ranks": options.ranks,
                      "threads": options.threads,
                      "rounds": options.rounds, "steps_a_round": options.steps, "python": platform.python_version(),
                      "processor": bench["processor"], "version": bench["version"], "revision": bench["revision"],
                      "backend": bench["backend"], "schedule": bench["schedule"], "activations": bench["activations"],
                      "left_out": left_out,
                      "micro_batches": [{"number": number, "relative_errors": errors[number], "results": results[number]}
                                        for number in pipelines]}
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    finally:
        for group in pipelines.values():
            close(group)
        shutil.rmtree(folder)
    return 0
