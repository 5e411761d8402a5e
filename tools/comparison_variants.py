"""Which forms of PyTorch compare_pytorch times: kinds, arithmetic, and how far the gradient of each may be from the exact
one. Imports neither torch nor numpy.
"""
import math
import re
from pathlib import Path

KINDS = ("plain", "compiled", "checkpointing", "reversible")
COMPILED_SINCE = (2, 0)
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}

# Relative error of rounding one operand of a product: 24, 11 and 8 bits of significand, the leading one among them. The
# project counts tf32's as 2^-11 and bf16's as 2^-9.
ROUNDING = {"fp32": 2**-24, "tf32": 2**-11, "bf16": 2**-9}

# What single precision may move the whole gradient by, relative to its norm: ReLUs flip under rounding. A wrong formula
# moves it by its norm.
TOLERANCE = 1e-2
# A gradient that is off by more than half its norm says nothing of the formula.
MOST_TOLERANCE = 0.5
# Gradients differ by up to 3.3 times what gradient_bound derives (midpoint-26 by revode in fp32).
SAFETY = 4


def label(kind, precision):
    """The name of a variant in tables and results; fp32 goes without saying."""
    return kind if precision == "fp32" else f"{kind}-{precision}"


def combinations(kinds, precisions):
    """(kind, precision) in the order of timing."""
    return [(kind, precision) for precision in precisions for kind in kinds]


def state_error(precision, couplings):
    """Independent roundings, one a coupling, add up to this relative error of the states."""
    return ROUNDING[precision] * math.sqrt(couplings)


def gradient_bound(precision, couplings):
    """How far the gradient may be off, relative to its norm.

    States that are off by a share d flip about that share of the ReLUs. Each flip removes or adds a whole contribution, and
    they are independent, so the gradient moves by about sqrt(d) of its norm. At 36 couplings that is 6e-4 in fp32; 5e-4
    (PyTorch) and 1.7e-3 (Winograd's larger rounding errors) were measured. In bf16 PyTorch's gradients of 12 to 36
    couplings differ by 0.04 to 0.12 on a CPU, 0.3 to 1.2 times that.
    """
    if precision == "fp32":
        return TOLERANCE
    return min(MOST_TOLERANCE, SAFETY * math.sqrt(state_error(precision, couplings)))


def loss_bound(precision, couplings):
    """How far the loss may be off, relative to itself: flips at 0 leave it alone, so it moves as the states do."""
    return TOLERANCE if precision == "fp32" else SAFETY * state_error(precision, couplings)


def version_of(torch_folder):
    """PyTorch's version as text, read without importing it, which takes seconds."""
    text = Path(torch_folder, "version.py").read_text()
    return re.search(r"__version__ = '([^']*)'", text).group(1)


def can_compile(version):
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= COMPILED_SINCE


def default_kinds(version):
    return [kind for kind in KINDS if kind != "compiled" or can_compile(version)]
