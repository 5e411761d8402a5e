"""What compare_pytorch says of programs on one rank: medians, ratios, and the table. Starts nothing."""
import statistics

from comparison_variants import label


def is_revode(result):
    return result["program"] == "revode"


def summarize(results, batch):
    """Adds medians, and ratios to revode in the same precision, else in fp32."""
    for result in results.values():
        own = label("revode", result["precision"])
        result["beside"] = own if own in results else "revode"
        revode = results[result["beside"]]
        result["step_seconds"] = statistics.median(result["round_seconds"])
        result["images_per_second"] = batch / result["step_seconds"]
        # Of one round each: what else the machine does then slows both.
        ratios = [theirs / ours for theirs, ours in zip(result["round_seconds"], revode["round_seconds"])]
        result["revode_is_faster_by"] = statistics.median(ratios)
        result["ratio_lowest"], result["ratio_highest"] = min(ratios), max(ratios)
        result["memory_of_revode"] = revode["peak_memory_bytes"] / result["peak_memory_bytes"]
        if "device_memory_bytes" in revode and "device_reserved_bytes" in result:
            result["device_memory_of_revode"] = revode["device_memory_bytes"] / result["device_reserved_bytes"]


def mebibytes(bytes):
    return f"{bytes / 2**20:.0f}"


def device_cells(result):
    """Allocated / reserved on the GPU, in MiB, and what revode takes beside that."""
    if is_revode(result):
        return mebibytes(result["device_memory_bytes"]) if "device_memory_bytes" in result else "not told", ""
    share = result.get("device_memory_of_revode")
    return (f"{mebibytes(result['device_allocated_bytes'])} / {mebibytes(result['device_reserved_bytes'])}",
            "" if share is None else f"{share:.0%}")


def table(results, on_gpu):
    """Lines, the head first."""
    head = (f"{'':<14} {'':<5} {'step ms':>9} {'least ms':>9} {'images/s':>9} {'revode is faster by':>27} "
            f"{'peak memory':>12} {'revode takes':>13}")
    lines = [head + (f" {'GPU MiB':>15} {'revode takes':>13}" if on_gpu else "")]
    for result in results.values():
        ratio = f"{result['revode_is_faster_by']:.2f} ({result['ratio_lowest']:.2f} .. {result['ratio_highest']:.2f})"
        share = f"{result['memory_of_revode']:.0%}"
        line = (f"{result['program']:<14} {result['precision']:<5} {1e3 * result['step_seconds']:>9.2f} "
                f"{1e3 * result['step_seconds_lowest']:>9.2f} {result['images_per_second']:>9.1f} "
                f"{'' if is_revode(result) else ratio:>27} {mebibytes(result['peak_memory_bytes']):>8} MiB "
                f"{'' if is_revode(result) else share:>13}")
        if on_gpu:
            used, of_theirs = device_cells(result)
            line += f" {used:>15} {of_theirs:>13}"
        lines.append(line.rstrip())
    return lines


def describe(device, layout):
    """PyTorch, its device and the layout of its images, in a line."""
    if device["device"] == "cpu":
        instructions = " and ".join(device["bf16_instructions"]) or "none"
        return f"PyTorch {device['torch']} on the CPU, {layout}; instructions for bf16: {instructions}"
    return (f"PyTorch {device['torch']} on {device['device']} (compute capability {device['compute_capability']}, "
            f"{device['device_bytes'] / 2**30:.0f} GiB); driver {device['driver']}, CUDA {device['cuda']}, "
            f"cuDNN {device['cudnn']}; {layout}")


def notes(options, device, results, left_out):
    """Lines below the table."""
    lines = [f"{name}: {reason}" for name, reason in left_out.items()]
    theirs = {name: result for name, result in results.items() if not is_revode(result)}
    strangers = [name for name, result in theirs.items() if label("revode", result["precision"]) != result["beside"]]
    if strangers:
        lines.append(f"Beside revode's fp32: {', '.join(strangers)}.")
    if any(result["program"] == "compiled" for result in theirs.values()):
        graphs = " (CUDA graphs)" if device["compile_mode"] == "reduce-overhead" else ""
        lines.append(f"compiled: torch.compile, mode {device['compile_mode']}{graphs}.")
    lines += [f"{name}: torch.compile did without CUDA graphs {result['graph_skips']} times: see TORCH_LOGS=perf_hints."
              for name, result in theirs.items() if options.device == "cuda" and result["graph_skips"]]
    if theirs:
        base = max(result["base_memory_bytes"] for result in theirs.values())
        lines.append(f"PyTorch's processes take {mebibytes(base)} MiB before they hold a network; their peak is that after "
                     "the warm-up.")
    if options.device == "cuda":
        lines.append("Peak memory is the host's. GPU memory of PyTorch: allocated / reserved, without the CUDA context.")
    return lines


def line_of_bench(bench, on_gpu):
    line = f"revode: {bench['effective_gflops']:.0f} effective GFLOP/s"
    if on_gpu:
        return line  # its peak is the processor's
    return (f"{line}, {bench['peak_share']:.0%} of the FMA peak of {bench['peak_gflops']:.0f}; stages alone "
            f"{bench['body_share']:.0%}")


def print_report(options, config, device, results, left_out):
    bench = results["revode"]["bench"][-1]
    on_gpu = options.device == "cuda"
    print(f"\n{config['arch']}, blocks {config['blocks']}, widths {config['widths']}, images {options.image_size} x "
          f"{options.image_size}, batch {options.batch}, {options.threads} threads; medians of {options.rounds} rounds "
          f"of {options.steps} steps")
    print(f"{bench['processor']}; {bench['version']}, revision {bench['revision']}, {bench['backend']}")
    print(describe(device, options.layout))
    print(*table(results, on_gpu), *notes(options, device, results, left_out), line_of_bench(bench, on_gpu), sep="\n")
