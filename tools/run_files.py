"""What tools and tests share about runs of revode: options of which a later one wins, and what a run's folder holds."""
import json
import re
from pathlib import Path


def last_of_each(arguments):
    """The program refuses an option that is given twice; here a later one replaces an earlier one."""
    words, options, name = [], {}, None
    for argument in map(str, arguments):
        if argument.startswith("--"):
            name = argument
            options[name] = [name]
        elif name is None:
            words.append(argument)
        else:
            options[name].append(argument)
    return words + [part for option in options.values() for part in option]


def metrics_of(folder, also=()):
    """Records of a run without what depends on the clock, and without those that say who made it when and where, and what
    could not be saved."""
    with open(Path(folder) / "metrics.jsonl") as lines:
        records = [record for record in map(json.loads, lines) if record["kind"] not in ("start", "save_error") or record["kind"] in also]
    return [{key: value for key, value in record.items() if "seconds" not in key and "per_second" not in key}
            for record in records]


def checkpoint_steps(folder):
    """Steps of the checkpoints in a run's folder, in order."""
    names = [re.fullmatch(r"checkpoint-(\d+)\.h5", file.name) for file in Path(folder).glob("checkpoint-*.h5")]
    return sorted(int(name[1]) for name in names if name)


def difference_of_checkpoints(found, expected):
    """In words what differs between two files, array by array; empty where no byte does."""
    one, other = Path(found).read_bytes(), Path(expected).read_bytes()
    if one == other:
        return ""
    (tables, sizes) = [table_of(content) for content in (one, other)], (len(one), len(other))
    names = [name for name in tables[1] if name in tables[0] and
             part(one, tables[0][name]) != part(other, tables[1][name])]
    if sizes[0] != sizes[1] or tables[0].keys() != tables[1].keys():
        return f"{sizes[0]} bytes, expected {sizes[1]}; {len(tables[0])} arrays, expected {len(tables[1])}"
    first = next(place for place, (a, b) in enumerate(zip(one, other)) if a != b)
    return f"first at byte {first}; arrays: {', '.join(names) or 'none, attributes or checksums alone'}"


def table_of(content):
    """Name -> (first byte, number of bytes) of the arrays in a checkpoint, as its user block has them."""
    head = content[:content.find(b"\0")].decode(errors="replace").splitlines()
    lines = [line.split() for line in head[1:]]
    return {words[3]: (int(words[1]), int(words[2])) for words in lines if len(words) == 4 and words[3].startswith("/")}


def part(content, place):
    return content[place[0]:place[0] + place[1]]
