"""compare_pytorch on one rank: rounds in which revode and every variant of PyTorch take training steps in turn."""
import json
import math
import platform
import shutil
import statistics
import tempfile
from pathlib import Path

from comparison_processes import Worker, describe_device, note_load
from comparison_variants import combinations, gradient_bound, label, loss_bound
from one_rank_report import print_report, summarize
from pytorch_comparison import (bench_revode, compare_gradients, gradient_of_pytorch, gradient_of_revode, prepare,
                                refused_precision)


def start(options, folder, kind, precision, device):
    worker = Worker(label(kind, precision), options.threads, "pytorch_training.py", kind, folder, options.threads, precision,
                    device, options.layout)
    worker.kind, worker.precision = kind, precision
    return worker


def start_workers(options, folder, left_out):
    """Those that work; left_out[name] is the reason where torch.compile fails."""
    workers = []
    try:
        for kind, precision in combinations(options.variants, options.precision):
            workers.append(start(options, folder, kind, precision, options.device))
            failure = workers[-1].ask(do="compile")["failure"] if kind == "compiled" else None
            if failure:
                left_out[workers[-1].variant] = f"torch.compile fails here: {failure}"
                print(f"  note: {workers[-1].variant} is left out, since {left_out[workers[-1].variant]}", flush=True)
                workers.pop().close()
    except BaseException:
        close(workers)
        raise
    return workers


def close(workers):
    for each in workers:
        each.close()


def precisions_of_revode(options, folder, left_out):
    """fp32, and what else was asked for and this revode computes in."""
    taken = ["fp32"]
    for precision in options.precision:
        if precision == "fp32":
            continue
        refusal = refused_precision(options, folder, precision)
        if refusal:
            left_out[label("revode", precision)] = f"refused: {refusal}"
        else:
            taken.append(precision)
    return taken


def check_gradients(options, folder, couplings, taken, workers):
    """Loss and gradient of the same samples against PyTorch's on the CPU in double precision; relative errors by name."""
    oracle = start(options, folder, "plain", "double", "cpu")
    try:
        expected = gradient_of_pytorch(oracle, folder)
    finally:
        oracle.close()
    print(f"  {'double':<18} loss {expected[0]:.7f}", flush=True)
    errors = {}
    for precision in taken:
        found = gradient_of_revode(options, folder, precision=precision)
        name = label("revode", precision)
        errors[name] = compare_gradients(name, found, expected, gradient_bound(precision, couplings),
                                         loss_bound(precision, couplings))
    for each in workers:
        errors[each.variant] = compare_gradients(each.variant, gradient_of_pytorch(each, folder), expected,
                                                 gradient_bound(each.precision, couplings),
                                                 loss_bound(each.precision, couplings))
    return errors


def note(result, seconds, least):
    result["round_seconds"].append(seconds)
    result["step_seconds_lowest"] = min(result["step_seconds_lowest"], least)


def time_revode(options, folder, precision, result):
    bench = bench_revode(options, folder, precision=precision)
    note(result, bench["step_seconds"], bench["step_seconds_lowest"])
    result["peak_memory_bytes"] = max(bench["peak_memory_bytes"])
    if "device_memory_bytes" in bench:
        of_ranks = bench["device_memory_bytes"]
        result["device_memory_bytes"] = max(of_ranks) if isinstance(of_ranks, list) else of_ranks
    result.setdefault("bench", []).append(bench)


def time_worker(options, worker, result):
    answer = worker.ask(do="steps", count=options.steps)
    note(result, statistics.median(answer["seconds"]), min(answer["seconds"]))
    result.update({key: value for key, value in answer.items() if key.endswith("_bytes") or key == "torch"})


def time_rounds(options, folder, taken, workers):
    """Results by name: median seconds of each round, peak memory."""
    programs = [("revode", precision) for precision in taken] + [(each.kind, each.precision) for each in workers]
    results = {label(program, precision): {"program": program, "precision": precision, "round_seconds": [],
                                           "step_seconds_lowest": math.inf} for program, precision in programs}
    for each in workers:
        # `revode bench` warms up by itself.
        results[each.variant]["graph_skips"] = each.ask(do="warm_up")["graph_skips"]
    for number in range(1, options.rounds + 1):
        for precision in taken:
            time_revode(options, folder, precision, results[label("revode", precision)])
        for each in workers:
            time_worker(options, each, results[each.variant])
        print(f"  round {number}: " + ", ".join(f"{name} {1e3 * result['round_seconds'][-1]:.4g} ms"
                                                for name, result in results.items()), flush=True)
    summarize(results, options.batch)
    return results


def compare(options):
    device = describe_device(options)
    folder = Path(tempfile.mkdtemp(prefix="revode-compare-"))
    workers, left_out = [], {}
    try:
        config = prepare(options, folder)
        couplings = sum(config["blocks"]) * (2 if config["arch"] == "hamiltonian" else 1)
        taken = precisions_of_revode(options, folder, left_out)
        print(f"loss and gradient of {options.batch} samples", flush=True)
        workers = start_workers(options, folder, left_out)
        errors = check_gradients(options, folder, couplings, taken, workers)
        print("training steps", flush=True)
        note_load(options.threads)
        results = time_rounds(options, folder, taken, workers)
        print_report(options, config, device, results, left_out)
        if options.json:
            result = {"arch": config["arch"], "blocks": config["blocks"], "widths": config["widths"],
                      "image_size": options.image_size, "batch_size": options.batch, "threads": options.threads,
                      "rounds": options.rounds, "steps_a_round": options.steps, "python": platform.python_version(), "device": device, "layout": options.layout,
                      "left_out": left_out, "relative_errors": errors, "results": results}
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    finally:
        close(workers)
        shutil.rmtree(folder)
    return 0
