#!/usr/bin/env python3
"""Checks that dependencies point down only:

    commands > train > run > config > data > files > core,   run > checkpoint > files, comm > core
    config > pipeline > model > backend > core,   pipeline > comm,   commands > analysis > model

and that each outside interface stays where it belongs: MPI calls in comm and main.cpp (checkpoint takes part in
collectives on the communicator it is handed), HDF5 in checkpoint, highway in backend/cpu, CUDA in backend, Eigen and
Spectra in analysis.

Also that a source includes the public header of its name first, so that the header is known to compile alone, that
public headers have an include guard, and, in tests too, that names come from headers which are included (see
included_names.py).

    tools/check_includes.py [REPOSITORY]

Prints one line a violation, `file:line: what`, and exits 1 when there is any. Only text is looked at: nothing is compiled.
"""
import re
import sys
from functools import lru_cache
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
from included_names import IncludedNames  # noqa: E402

# What each module may include, beside itself.
BELOW = {
    "core": set(),
    "files": {"core"},
    "backend": {"core"},
    "model": {"backend", "core"},
    "analysis": {"model", "backend", "core"},
    "comm": {"core"},
    "pipeline": {"model", "backend", "comm", "core"},
    "data": {"files", "core"},
    "config": {"data", "files", "pipeline", "model", "backend", "core"},
    "checkpoint": {"files", "comm", "core"},
    "run": {"config", "checkpoint", "data", "files", "pipeline", "model", "backend", "comm", "core"},
    "train": {"run", "config", "checkpoint", "data", "files", "pipeline", "model", "backend", "comm", "core"},
    "commands": {"analysis", "train", "run", "config", "checkpoint", "data", "files", "pipeline", "model", "backend", "comm",
                 "core"},
    "main.cpp": {"commands", "analysis", "train", "run", "config", "checkpoint", "data", "files", "pipeline", "model",
                 "backend", "comm", "core"},
}

# checkpoint works on a communicator that it is given: collectives and constants, no messages, no start-up.
MPI_CALLS_OF_CHECKPOINT = {"MPI_Comm", "MPI_Comm_rank", "MPI_Comm_size", "MPI_Info", "MPI_Info_create", "MPI_Info_set",
                           "MPI_Info_free", "MPI_Barrier", "MPI_Bcast", "MPI_Reduce", "MPI_Allreduce", "MPI_Gather",
                           "MPI_Allgather", "MPI_Datatype", "MPI_Op", "MPI_Error_string"}

MPI_NAME = re.compile(r"\bMPI_\w+")
HDF5_NAME = re.compile(r"\bH5[A-Z]{1,2}(?:_\w+|[a-z]\w*)")
HIGHWAY_NAME = re.compile(r"\bHWY_\w+|\bhwy::")
EIGEN_NAME = re.compile(r"\b(?:Eigen|Spectra)::")
CUDA_NAME = re.compile(r"\bcu(?:da|blas|dnn)[A-Z]\w*|\bnccl[A-Z]\w*")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

# Comments and literals, in the order in which a compiler would meet them.
NOT_CODE = re.compile(r'R"([^()\\\s]{0,16})\(.*?\)\1"'
                      r'|"(?:\\.|[^"\\\n])*"'
                      r"|(?<![0-9a-zA-Z_])'(?:\\.|[^'\\\n])+'"
                      r"|//[^\n]*|/\*.*?\*/", re.DOTALL)


def blank(match):
    """Same number of lines, no text: line numbers stay right."""
    return "\n" * match.group(0).count("\n")


def code_lines(text):
    """(number, include or None, code without comments and literals) for each line."""
    without_comments = NOT_CODE.sub(lambda m: m.group(0) if m.group(0).startswith(('"', "R")) else blank(m), text)
    bare = NOT_CODE.sub(blank, text)
    for number, (line, code) in enumerate(zip(without_comments.split("\n"), bare.split("\n")), start=1):
        include = INCLUDE.match(line)
        yield number, include.group(2) if include else None, "" if include else code


def module_of(path):
    """The module of a source file, from its path below the repository; None where it is no part of any."""
    parts = path.parts
    if parts[:2] == ("include", "revode"):
        return parts[2] if len(parts) > 3 else "(none)"
    if parts[0] == "src":
        return parts[1] if len(parts) > 2 or parts[1] == "main.cpp" else "(none)"
    return None


def module_included(target, source, repository):
    """The module that an include reaches, or None for anything that is not revode's own."""
    parts = Path(target).parts
    if parts[0] == "revode":
        return parts[1]
    found = own_file(target, source, repository)
    return module_of(found) if found else None


def own_file(target, source, repository):
    """The path below the repository of the file that an include names, or None for anything that is not revode's own."""
    for folder in (repository / "include", source.parent, repository / "src", repository / "tests"):
        found = (folder / target).resolve()
        if found.is_file() and found.is_relative_to(repository):
            return found.relative_to(repository)
    return None


def outside_interfaces(path, module, include, code):
    """What this line uses of MPI, HDF5, highway, CUDA, Eigen and Spectra and must not."""
    in_cpu_kernels = path.parts[:3] == ("src", "backend", "cpu")
    if module not in ("comm", "main.cpp"):
        if include == "mpi.h" and module != "checkpoint":
            yield "includes mpi.h; MPI lives in comm and main.cpp"
        for name in MPI_NAME.findall(code):
            if module != "checkpoint":
                yield f"uses {name}; MPI lives in comm and main.cpp"
            elif name != name.upper() and name not in MPI_CALLS_OF_CHECKPOINT:
                yield f"uses {name}; checkpoint only takes part in collectives on the communicator it is given"
    if module != "checkpoint":
        if include and re.match(r"hdf5(_hl)?\.h$|H5\w*public\.h$", include):
            yield f"includes {include}; HDF5 lives in checkpoint"
        for name in HDF5_NAME.findall(code):
            yield f"uses {name}; HDF5 lives in checkpoint"
    if not in_cpu_kernels:
        if include and include.startswith("hwy/"):
            yield f"includes {include}; highway lives in backend/cpu"
        for name in HIGHWAY_NAME.findall(code):
            yield f"uses {name}; highway lives in backend/cpu"
    if module != "backend":
        if include and re.match(r"(cuda|cublas|cudnn|nccl)\w*\.h$", include):
            yield f"includes {include}; CUDA lives in backend"
        for name in CUDA_NAME.findall(code):
            yield f"uses {name}; CUDA lives in backend"
    if module != "analysis":
        if include and include.startswith(("Eigen/", "Spectra/")):
            yield f"includes {include}; Eigen and Spectra live in analysis"
        for name in EIGEN_NAME.findall(code):
            yield f"uses {name}; Eigen and Spectra live in analysis"


def check_file(repository, path, lines):
    module = module_of(path)
    if module not in BELOW:
        yield 1, f"belongs to no known module (found '{module}', known are {', '.join(BELOW)})"
        return
    source = repository / path
    if path.parts[0] == "include" and not any(code.strip() == "#pragma once" for _, _, code in lines):
        yield 1, "has no #pragma once"
    own = Path("revode", *path.parts[1:]).with_suffix(".hpp")
    includes = [(number, include) for number, include, _ in lines if include]
    first_number, first = includes[0] if includes else (1, "nothing")
    if path.suffix == ".cpp" and (repository / "include" / own).is_file() and first != str(own):
        yield first_number, f"includes {first} first, expected {own}"
    for number, include, code in lines:
        if include:
            target = module_included(include, source, repository)
            if target is not None and target != module and target not in BELOW[module]:
                allowed = ", ".join(sorted(BELOW[module])) or "nothing of revode"
                yield number, f"{module} includes {include} of {target}; it may include {allowed}"
        for message in outside_interfaces(path, module, include, code):
            yield number, message


def check(repository):
    """(violations as lines of text, number of files looked at)."""
    repository = Path(repository).resolve()
    files = sorted(p.relative_to(repository) for folder in ("include", "src", "tests")
                   for p in (repository / folder).rglob("*") if p.suffix in (".hpp", ".cpp", ".cu", ".cuh"))

    @lru_cache(maxsize=None)
    def lines_of(path):
        return list(code_lines((repository / path).read_text(encoding="utf-8")))

    names = IncludedNames([path for path in files if path.parts[0] == "include"], lines_of,
                          lambda include, path: own_file(include, repository / path, repository))
    found = []
    for path in files:
        violations = list(names.missing(path))
        if path.parts[0] != "tests":
            violations += check_file(repository, path, lines_of(path))
        found += [f"{path}:{number}: {message}" for number, message in violations]
    return found, len(files)


def main():
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        sys.exit(__doc__)
    repository = Path(sys.argv[1] if len(sys.argv) == 2 else Path(__file__).resolve().parent.parent)
    found, num_files = check(repository)
    if num_files == 0:
        sys.exit(f"check_includes: found no source files under {repository}/include, src and tests")
    for line in found:
        print(line)
    print(f"check_includes: {num_files} files, {len(found)} violations")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
