"""What a scaling study consists of: grids, the curves that they make, and the options of revode on each.

Knows nothing of how they are measured.
"""
import re

# What the study itself says to revode.
OWN_OPTIONS = {"--time-ranks", "--data-ranks", "--ranks", "--threads", "--json", "--machine", "--machine-file", "--search"}
GRID_NAMES = {"time": "Nx1", "data": "1xN"}


class StudyError(Exception):
    """One sentence for the user."""


def whole_numbers(option, text, count=None):
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or count not in (None, len(numbers)):
        raise StudyError(f"{option} {text or '(left out)'}: expected {count or 'some'} whole numbers from 1 on, "
                         "separated by commas")
    return numbers


def program_options(words):
    """What stands behind `--`, by name."""
    options = {}
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for name, value in zip(words[::2], words[1::2] + [None]):
        if not name.startswith("--") or value is None:
            raise StudyError(f"found {name} behind --; expected pairs of an option of revode and its value")
        if name in OWN_OPTIONS:
            raise StudyError(f"found {name} behind --; expected no such option, as the study sets it")
        options[name] = value
    return options


class Point:
    """A grid that is measured, in all series that hold it."""

    def __init__(self, study, grid, options):
        self.time_ranks, self.data_ranks = grid
        self.name = f"{grid[0]}x{grid[1]}"
        self.ranks = grid[0] * grid[1]
        self.options = dict(options)
        if study == "depth":
            blocks = whole_numbers("--blocks", options.get("--blocks", ""), 3)
            # Default widths depend on the depth: a grid would have other layers than the next.
            whole_numbers("--widths", options.get("--widths", ""), 3)
            self.options["--blocks"] = ",".join(str(number * self.time_ranks) for number in blocks)
        if study == "data" or self.data_ranks > 1 and study == "depth":
            for name in ("--batch-size", "--micro-batches"):
                (number,) = whole_numbers(name, options.get(name, ""), 1)
                self.options[name] = str(number * self.data_ranks)


def make_series(study, grids, ranks):
    """[(name, [(T, D), ...])]: a curve each, with the fewest ranks first."""
    series = {}
    for word in grids.split(","):
        word = GRID_NAMES.get(word, word)
        match = re.fullmatch(r"(N|[1-9]\d*)x(N|[1-9]\d*)", word)
        if not match or word == "NxN":
            raise StudyError(f"--grids {grids}: found {word!r}; expected time, data, or T x D as in Nx1, 4xN, 2x2")
        time, data = match.groups()
        fixed = int(data if time == "N" else time)
        if "N" not in word:
            grid = int(time), int(data)
            series.setdefault(f"Nx{data}" if study == "depth" else f"{time}xN", set()).add(grid)
            continue
        if study == ("data" if time == "N" else "depth"):
            raise StudyError(f"--grids {grids}: {word} in a study that is weak in {study}; "
                             f"expected {'1xN, 2xN, ...' if study == 'data' else 'Nx1, Nx2, ...'}")
        rest = [number // fixed for number in ranks if number % fixed == 0]
        if not rest:
            raise StudyError(f"--grids {grids}: {word} is on none of --ranks; expected a multiple of {fixed} there")
        series.setdefault(word, set()).update((n, fixed) if time == "N" else (fixed, n) for n in rest)
    return [(name, sorted(members, key=lambda grid: grid[0] * grid[1])) for name, members in series.items()]
