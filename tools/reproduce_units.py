"""The runs that tools/reproduce makes: their names, programs and options. Knows nothing of processes and results."""
import json
from pathlib import Path

from reproduce_results import ReproduceError

FIGURE3_EPOCHS = 100
FRACTIONS = (0.02, 0.05, 0.1)
# Shares of the run at which the paper's schedule decays the rate: epochs 80, 120 and 160 of 200.
DECAYS = (0.4, 0.6, 0.8)
# What configs/*-cifar10.ini say as well, for the baselines, which read no such files.
SCHEDULE = {"batch-size": "100", "learning-rate": "0.1", "lr-decay": "0.1", "momentum": "0.9", "weight-decay": "2e-4",
            "augment": "on"}
BASELINES = ("resnet-32", "revnet-38")
# In the order of their cost.
NETWORKS = ("hamiltonian-74", "leapfrog-26", "midpoint-26", "leapfrog-62", "midpoint-62", "hamiltonian-218")


class Unit:
    """One run. `options` are those of its program that decide about its numbers."""

    def __init__(self, name, network, options):
        self.name, self.network = name, network
        self.program = "baseline" if network in BASELINES else "revode"
        start = {"net": network, "dataset": "cifar10", **SCHEDULE} if self.program == "baseline" else {
            "config": f"configs/{network}-cifar10.ini"}
        self.options = {**start, **options}

    def refuse_other_run(self, folder):
        """Marks the folder of the run with the options, or refuses to mix."""
        mark = folder / "unit.json"
        if mark.exists():
            found = json.loads(mark.read_text(encoding="utf-8"))
            if found != self.options:
                names = sorted(n for n in found.keys() | self.options.keys() if found.get(n) != self.options.get(n))
                raise ReproduceError(f"{folder} holds a run with other options ({', '.join(names)}); remove it, or give "
                                     "another folder for --runs")
            return
        part = mark.with_name(mark.name + ".part")
        part.write_text(json.dumps(self.options, indent=1) + "\n", encoding="utf-8")
        part.replace(mark)


def figure3_unit(network, fraction, seed, epochs):
    decays = sorted({max(1, round(share * epochs)) for share in DECAYS})
    options = {"train-fraction": f"{fraction:g}", "seed": str(seed), "epochs": str(epochs),
               "lr-decay-epochs": ",".join(map(str, decays)), "eval-every": "10"}
    return Unit(f"{network}-{round(100 * fraction)}-percent-seed-{seed}", network, options)


def figure3_units(epochs, seed_counts=(3, 1, 1)):
    """Smallest fraction first, networks in turn; the two others of the paper follow the first seeds of the smallest."""
    units = []
    for fraction, count in zip(FRACTIONS, seed_counts):
        units += [figure3_unit(network, fraction, seed, epochs) for seed in range(1, count + 1)
                  for network in ("hamiltonian-74", "resnet-32")]
        if fraction == FRACTIONS[0]:
            units += [figure3_unit(network, fraction, 1, epochs) for network in ("leapfrog-62", "midpoint-62")]
    return units


def table1_units(repository):
    missing = [name for name in NETWORKS if not Path(repository, "configs", f"{name}-cifar10.ini").exists()]
    if missing:
        raise ReproduceError(f"configs/{missing[0]}-cifar10.ini is missing")
    order = (NETWORKS[0], BASELINES[0], *NETWORKS[1:], BASELINES[1])
    baseline = {"epochs": "200", "lr-decay-epochs": "80,120,160"}
    return [Unit(f"{name}-cifar10-seed-1", name,
                 {"seed": "1", "eval-every": "1", **(baseline if name in BASELINES else {})}) for name in order]
