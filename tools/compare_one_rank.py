"""compare_pytorch on one rank: rounds in which revode and every variant of PyTorch take training steps in turn."""
import json
import math
import platform
import shutil
import statistics
import tempfile
from pathlib import Path

from comparison_processes import Worker, note_load
from pytorch_comparison import bench_revode, compare_gradients, gradient_of_pytorch, gradient_of_revode, prepare


def start(options, variant, folder, precision="single"):
    return Worker(variant, options.threads, "pytorch_training.py", variant, folder, options.threads, precision)


def check_gradients(options, folder, workers):
    """Loss and gradient of the same samples against PyTorch's in double precision; relative errors by name."""
    oracle = start(options, "plain", folder, "double")
    try:
        expected = gradient_of_pytorch(oracle, folder)
    finally:
        oracle.close()
    print(f"  {'double':<15} loss {expected[0]:.7f}", flush=True)
    errors = {"revode": compare_gradients("revode", gradient_of_revode(options, folder), expected)}
    for each in workers:
        found = gradient_of_pytorch(each, folder)
        errors[each.variant] = compare_gradients(each.variant, found, expected)
    return errors


def note_lowest(result, seconds):
    result["step_seconds_lowest"] = min(result["step_seconds_lowest"], seconds)


def time_rounds(options, folder, workers):
    """Results by name: median seconds of each round, peak memory."""
    results = {name: {"round_seconds": [], "step_seconds_lowest": math.inf} for name in ("revode", *(each.variant for each in workers))}
    for each in workers:
        each.ask(do="steps", count=2)  # warm up, as `revode bench` does by itself
    for number in range(1, options.rounds + 1):
        bench = bench_revode(options, folder)
        results["revode"]["round_seconds"].append(bench["step_seconds"])
        note_lowest(results["revode"], bench["step_seconds_lowest"])
        results["revode"]["peak_memory_bytes"] = max(bench["peak_memory_bytes"])
        results["revode"].setdefault("bench", []).append(bench)
        for each in workers:
            answer = each.ask(do="steps", count=options.steps)
            results[each.variant]["round_seconds"].append(statistics.median(answer["seconds"]))
            note_lowest(results[each.variant], min(answer["seconds"]))
            results[each.variant].update(peak_memory_bytes=answer["peak_memory_bytes"],
                                         base_memory_bytes=answer["base_memory_bytes"], torch=answer["torch"])
        print(f"  round {number}: " + ", ".join(f"{name} {1e3 * result['round_seconds'][-1]:.0f} ms"
                                                 for name, result in results.items()), flush=True)
    for result in results.values():
        result["step_seconds"] = statistics.median(result["round_seconds"])
        result["images_per_second"] = options.batch / result["step_seconds"]
        # Of one round each: what else the machine does then slows both.
        ratios = [theirs / ours for theirs, ours in zip(result["round_seconds"], results["revode"]["round_seconds"])]
        result["revode_is_faster_by"] = statistics.median(ratios)
        result["ratio_lowest"], result["ratio_highest"] = min(ratios), max(ratios)
        result["memory_of_revode"] = results["revode"]["peak_memory_bytes"] / result["peak_memory_bytes"]
    return results


def print_table(options, config, results):
    bench = results["revode"]["bench"][-1]
    torch = results[options.variants[0]]["torch"]
    print(f"\n{config['arch']}, blocks {config['blocks']}, widths {config['widths']}, batch {options.batch}, fp32, "
          f"{options.threads} threads; medians of {options.rounds} rounds of {options.steps} steps")
    print(f"{bench['processor']}; {bench['version']}, revision {bench['revision']}, {bench['backend']}; "
          f"PyTorch {torch}")
    print(f"{'':<15} {'step ms':>9} {'least ms':>9} {'images/s':>9} {'revode is faster by':>27} {'peak memory':>12} {'revode takes':>13}")
    for name, result in results.items():
        ratio = f"{result['revode_is_faster_by']:.2f} ({result['ratio_lowest']:.2f} .. {result['ratio_highest']:.2f})"
        print(f"{name:<15} {1e3 * result['step_seconds']:>9.1f} "
              f"{1e3 * result['step_seconds_lowest']:>9.1f} {result['images_per_second']:>9.1f} "
              f"{ratio if name != 'revode' else '':>27} {result['peak_memory_bytes'] / 2**20:>8.0f} MiB "
              f"{format(result['memory_of_revode'], '.0%') if name != 'revode' else '':>13}")
    base = max(result["base_memory_bytes"] for name, result in results.items() if name != "revode")
    print(f"PyTorch's processes take {base / 2**20:.0f} MiB before they hold a network.")
    print(f"revode: {bench['effective_gflops']:.0f} effective GFLOP/s, {bench['peak_share']:.0%} of the FMA peak of "
          f"{bench['peak_gflops']:.0f}; stages alone {bench['body_share']:.0%}")


def compare(options):
    folder = Path(tempfile.mkdtemp(prefix="revode-compare-"))
    workers = []
    try:
        config = prepare(options, folder)
        workers = [start(options, variant, folder) for variant in options.variants]
        print(f"loss and gradient of {options.batch} samples", flush=True)
        errors = check_gradients(options, folder, workers)
        print("training steps", flush=True)
        note_load(options.threads)
        results = time_rounds(options, folder, workers)
        print_table(options, config, results)
        if options.json:
            result = {"arch": config["arch"], "blocks": config["blocks"], "widths": config["widths"],
                      "batch_size": options.batch, "threads": options.threads, "rounds": options.rounds,
                      "steps_a_round": options.steps, "python": platform.python_version(),
                      "relative_errors": errors, "results": results}
            Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    finally:
        for each in workers:
            each.close()
        shutil.rmtree(folder)
    return 0
