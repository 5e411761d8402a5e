"""What tools/reproduce keeps of a run, and the tables made of it. Knows nothing of how runs are started.

A result is a JSON file: name, network, program, options, parameters (how many), epochs, test_accuracy and test_loss at the
end, training (train_loss and train_accuracy, a value an epoch), tests (epoch, counted from 0, test_loss and test_accuracy, a
value an evaluation), images_per_second (median), checkpoint_sha256, revisions, programs, machine, date.
"""
import hashlib
import json
import os
import re
import statistics
from pathlib import Path


class ReproduceError(Exception):
    """One sentence for the user."""


def result_file(folder, unit):
    return Path(folder, f"{unit.name}.json")


def read_result(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReproduceError(f"cannot read {path}: {error}; expected a result that this program wrote") from None


def write_result(folder, unit, result):
    """Never leaves half a file under this name."""
    path = result_file(folder, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # A line a key: short, and a change of one is seen as one.
    lines = ",\n ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items())
    part.write_text("{" + lines + "}\n", encoding="utf-8")
    part.replace(path)
    return path


def read_records(folder):
    file = Path(folder, "metrics.jsonl")
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            pass  # cut off where the run was killed
    return records


def latest(folder):
    return next((file for file in (Path(folder, "latest.h5"), Path(folder, "latest.pt")) if file.exists()), None)


def epochs_asked(records):
    return max((int(r["options"]["epochs"]) for r in records if r.get("kind") == "start"), default=0)


def is_finished(folder):
    """Whether the run came to its end, not only to a stop. A record of an end has the number of whole epochs."""
    records = read_records(folder)
    ends = [r for r in records if r.get("kind") == "end"]
    return bool(ends) and latest(folder) is not None and ends[-1]["epoch"] >= epochs_asked(records)


def processor():
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def num_parameters(folder):
    """Of revode's checkpoint: the sizes of what its optimiser moves. None where h5py is not installed."""
    try:
        import h5py
    except ImportError:
        return None
    sizes = []
    with h5py.File(Path(folder, "latest.h5")) as file:
        file["optimizer/momentum"].visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    return sum(sizes)


def rounded(values, digits=5):
    return [round(value, digits) for value in values]


def in_order(records, kind):
    """Records a resumed run wrote twice count once."""
    found = {r["epoch"]: r for r in records if r.get("kind") == kind}
    return [found[epoch] for epoch in sorted(found)]


def collect(unit, folder):
    """The result of the finished run in `folder`."""
    if not is_finished(folder):
        raise ReproduceError(f"{folder} ended without an error, but holds no finished run; expected a record of kind end "
                             "in metrics.jsonl, and latest.h5 or latest.pt")
    records = read_records(folder)
    starts = [r for r in records if r.get("kind") == "start"]
    epochs = in_order(records, "epoch")
    tests = [r for r in epochs if "test_accuracy" in r]
    end = [r for r in records if r.get("kind") == "end"][-1]
    speeds = [r["images_per_second"] for r in records if r.get("kind") == "step" and "images_per_second" in r]
    checkpoint = latest(folder)
    threads = sorted({start["threads"] for start in starts})
    return {
        "name": unit.name, "network": unit.network, "program": unit.program, "options": unit.options,
        "parameters": starts[-1].get("parameters") or num_parameters(folder), "epochs": end["epoch"],
        "test_accuracy": end["test_accuracy"], "test_loss": round(end["test_loss"], 5),
        "training": {key: rounded(r[key] for r in epochs) for key in ("train_loss", "train_accuracy")},
        "tests": {"epoch": [r["epoch"] for r in tests],
                  **{key: rounded(r[key] for r in tests) for key in ("test_loss", "test_accuracy")}},
        "images_per_second": round(statistics.median(speeds), 1) if speeds else None,
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "revisions": sorted({start["revision"] for start in starts}),
        "programs": sorted({f"{start['version']}, {start['backend']}" for start in starts}),
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, --threads {', '.join(map(str, threads))}",
        "date": starts[-1]["date"]}


def group(results):
    """{network: {fraction: [accuracies, ascending]}}, in the order of the results."""
    groups = {}
    for result in results:
        fraction = float(result["options"].get("train-fraction", "1"))
        groups.setdefault(result["network"], {}).setdefault(fraction, []).append(result["test_accuracy"])
    return {network: {fraction: sorted(values) for fraction, values in sorted(group.items())}
            for network, group in groups.items()}


def describe(accuracies):
    """The median, and least and most where there are several."""
    middle = f"{100 * statistics.median(accuracies):.2f}"
    if len(accuracies) == 1:
        return f"{middle} (1 seed)"
    return f"{middle} ({100 * accuracies[0]:.2f} to {100 * accuracies[-1]:.2f}, {len(accuracies)} seeds)"


def table_of_fractions(results):
    groups = group(results)
    fractions = sorted({fraction for values in groups.values() for fraction in values})
    sizes = {result["network"]: result["parameters"] for result in results}
    lines = ["| network | parameters | " + " | ".join(f"{100 * f:g}% of the images" for f in fractions) + " |",
             "|---" * (2 + len(fractions)) + "|"]
    for network, values in groups.items():
        cells = [describe(values[f]) if f in values else "" for f in fractions]
        size = f"{sizes[network]:,}" if sizes[network] else "not counted"
        lines.append(f"| {network} | {size} | " + " | ".join(cells) + " |")
    epochs = " or ".join(map(str, sorted({result["epochs"] for result in results})))
    lines += ["", f"Test accuracy in percent after {epochs} epochs: the median, and least to most over seeds."]
    return "\n".join(lines)


def table_of_runs(results):
    lines = ["| network | parameters | epochs | test accuracy | revision |", "|---" * 5 + "|"]
    for result in results:
        size = f"{result['parameters']:,}" if result["parameters"] else "not counted"
        lines.append(f"| {result['network']} | {size} | {result['epochs']} | {100 * result['test_accuracy']:.2f}% | "
                     f"{', '.join(result['revisions'])} |")
    return "\n".join(lines)
