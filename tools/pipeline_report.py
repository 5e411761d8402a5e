"""What compare_pytorch says of pipelines: where the network is cut, medians, and the table. Starts nothing."""
import statistics

from comparison_processes import CompareError


def cut_of(bench, couplings_per_block):
    """[stage, first, last] for each rank and stage it holds: couplings first .. last - 1 of that stage."""
    cut = [[] for _ in range(bench["ranks"])]
    begun = {}
    for piece in bench["stages"]:
        first = begun.get(piece["stage"], 0)
        begun[piece["stage"]] = first + piece["couplings"]
        cut[piece["rank"]].append([piece["stage"], first, begun[piece["stage"]]])
    expected = [blocks * couplings_per_block for blocks in bench["blocks"]]
    if [begun.get(stage) for stage in range(1, len(expected) + 1)] != expected or not all(cut):
        raise CompareError(f"revode's report cuts the network into {cut}, which is not all of its blocks {bench['blocks']}; "
                           "is --revode of the same version as this script?")
    return cut


def describe_cut(cut, couplings_per_block):
    return "; ".join(f"rank {rank}: " + ", ".join(
        f"{(last - first) // couplings_per_block} of stage {stage}" for stage, first, last in pieces)
        for rank, pieces in enumerate(cut))


def step_seconds(answers):
    """Of each step, from all ranks' begin to the last one's end; clocks of one machine."""
    return [max(end for _, end in spans) - min(begin for begin, _ in spans)
            for spans in zip(*(answer["spans"] for answer in answers))]


def summarize(rounds, batch):
    """rounds: by program, the seconds of a step in each round. Adds medians, spread and ratios to revode's."""
    results = {}
    for name, seconds in rounds.items():
        # Of one round each: what else the machine does then slows both.
        ratios = [theirs / ours for theirs, ours in zip(seconds, rounds["revode"])]
        results[name] = {"round_seconds": seconds, "step_seconds": statistics.median(seconds),
                         "images_per_second": batch / statistics.median(seconds),
                         "images_per_second_lowest": batch / max(seconds),
                         "images_per_second_highest": batch / min(seconds),
                         "revode_is_faster_by": statistics.median(ratios),
                         "ratio_lowest": min(ratios), "ratio_highest": max(ratios)}
    return results


def table(of_micro_batches):
    """Lines; of_micro_batches: results by program, by number of micro-batches."""
    lines = [f"{'micro-batches':>13} {'':<17} {'step ms':>9} {'images/s':>26} {'revode is faster by':>23}  "
             "peak MiB of each rank"]
    for number, results in of_micro_batches.items():
        for name, result in results.items():
            speed = (f"{result['images_per_second']:.1f} ({result['images_per_second_lowest']:.1f} .. "
                     f"{result['images_per_second_highest']:.1f})")
            ratio = f"{result['revode_is_faster_by']:.2f} ({result['ratio_lowest']:.2f} .. {result['ratio_highest']:.2f})"
            peaks = ", ".join(f"{peak / 2**20:.0f}" for peak in result["peak_memory_bytes"])
            lines.append(f"{number:>13} {name if name == 'revode' else 'PyTorch ' + name:<17} "
                         f"{1e3 * result['step_seconds']:>9.1f} {speed:>26} {ratio if name != 'revode' else '':>23}  {peaks}")
    return lines
