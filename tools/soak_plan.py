"""The disturbances of tools/soak.py, drawn from a seed alone: what strikes, when, whom, and on which grid the run starts."""
import math
import random
from typing import NamedTuple

KINDS = {
    "kill-rank": "kill -9 of one rank",
    "kill-mpirun": "kill -9 of mpirun",
    "kill-all": "kill -9 of all",
    "SIGTERM": "SIGTERM",
    "SIGUSR1": "SIGUSR1",
    "pause": "SIGSTOP of one rank, SIGCONT",
}
WEIGHTS = {"kill-rank": 4, "kill-mpirun": 1, "kill-all": 3, "SIGTERM": 2, "SIGUSR1": 2, "pause": 2}
KILLS = ("kill-rank", "kill-mpirun", "kill-all")
# Of those that are to be within a save some come too late: so many times the share that is asked for are tried.
TRIED_OVER_ASKED = 2
MOST_SAVES_BEFORE = 4
LONGEST_PAUSE_SECONDS = 0.8


class Strike(NamedTuple):
    number: int
    kind: str
    grid: tuple  # time ranks, data ranks of the run that it meets, if that has to be started
    moment: str  # starting, preparing (its files), running, saving
    saves_before: int  # since the start, for running and saving
    fraction: float  # of the moment's usual length that passes first
    target: str  # of signals: mpirun, rank, ranks
    rank_fraction: float  # which rank
    pause_seconds: float


def grids(max_ranks):
    return [(t, d) for t in range(1, max_ranks + 1) for d in range(1, max_ranks + 1) if t * d <= max_ranks]


def dealt(draw, shares, count):
    """`count` names, each as often as its share says, in random order."""
    whole = sum(shares.values())
    names = [name for name, share in shares.items() for _ in range(math.ceil(count * share / whole))]
    draw.shuffle(names)
    return names[:count]


def plan_of(seed, kills, max_ranks, share_in_saves):
    draw = random.Random(f"soak {seed}")
    kinds = dealt(draw, WEIGHTS, kills)
    saving = {*draw.sample(range(kills), min(kills, math.ceil(TRIED_OVER_ASKED * share_in_saves * kills)))}
    plan = []
    for number, kind in enumerate(kinds):
        starts = not plan or plan[-1].kind != "pause"  # after a pause the run goes on
        moment = draw.choices(["starting", "preparing", "running"], [3, 2, 5])[0]
        if number in saving:
            moment = "saving"
        elif kind not in KILLS or not starts:  # before they train, ranks do not listen to signals
            moment = "running"
        grid = draw.choice(grids(max_ranks))
        if kind == "kill-mpirun" and grid == (1, 1) and max_ranks > 1:
            grid = (2, 1)
        plan.append(Strike(number, kind, grid, moment, draw.randint(0 if moment == "saving" else 1, MOST_SAVES_BEFORE),
                           draw.random(), draw.choice(["mpirun", "mpirun", "rank", "ranks"]), draw.random(),
                           draw.uniform(0.05, LONGEST_PAUSE_SECONDS)))
    return plan
