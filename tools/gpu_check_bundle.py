"""The bundle of gpu_check: a folder that holds a built revode with all it needs at run time, but glibc and CUDA. Makes one,
finds one, and finds the CUDA libraries of the machine it was carried to. Knows ldd, Open MPI and PMIx; not what is checked."""
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
DESCRIPTION = "bundle.json"
SCRIPTS = ("gpu_check", "compare_pytorch.py")
PLUGIN = "librevode_cuda.so"

# Part of glibc, which must be that of the machine; and what comes with its GPU.
OF_THE_MACHINE = re.compile(r"(ld-linux.*|linux-vdso|lib(c|m|dl|pthread|rt|util|resolv|anl))\.so.*")
OF_CUDA = re.compile(r"lib(cuda|cudart|cudnn|cublas|nvrtc|nvJitLink|nvidia).*\.so.*")

# One machine needs no network of a cluster, no batch system and no OpenSHMEM.
NEEDLESS_PLUGINS = re.compile(
    r".*(_ofi|_ucx|_openib|_psm2?|_verbs|slurm|gridengine|flux|jsm|monitoring|simulator)\.so|"
    r"mca_(atomic|memheap|scoll|spml|sshmem)_.*\.so")

# The environment that makes Open MPI and PMIx take their files from the bundle. Without a cluster's launcher, for which mpirun
# would ask for ssh, and without hwloc's plugins, which look at screens.
IN_BUNDLE = """\
#!/bin/sh
# in_bundle COMMAND...: runs it with the libraries, the Open MPI and the PMIx of this folder, wherever that lies. CUDA's
# libraries come from the folders in REVODE_CUDA_LIBRARIES, joined by colons, or from where the system has them.
root=$(cd "$(dirname "$0")/.." && pwd -P) || exit 1
export LD_LIBRARY_PATH="$root/lib${REVODE_CUDA_LIBRARIES:+:$REVODE_CUDA_LIBRARIES}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export OPAL_PREFIX="$root" OPAL_BINDIR="$root/programs" OPAL_LIBDIR="$root/lib" OPAL_PKGLIBDIR="$root/openmpi/plugins"
export OPAL_DATADIR="$root" OPAL_PKGDATADIR="$root/openmpi/help" OPAL_SYSCONFDIR="$root/openmpi/etc"
export PMIX_PREFIX="$root" PMIX_INSTALL_PREFIX="$root" PMIX_LIBDIR="$root/lib" PMIX_PKGLIBDIR="$root/pmix/plugins"
export PMIX_DATADIR="$root" PMIX_PKGDATADIR="$root/pmix/help" PMIX_SYSCONFDIR="$root/pmix/etc"
export OMPI_MCA_mca_base_component_path="$root/openmpi/plugins" PMIX_MCA_mca_base_component_path="$root/pmix/plugins"
export OMPI_MCA_plm=isolated HWLOC_PLUGINS_PATH="$root/no-plugins-of-hwloc"
exec "$@"
"""
WRAPPER = """\
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd -P) || exit 1
exec "$here/in_bundle" "$here/../programs/{name}" "$@"
"""


class BundleError(Exception):
    """One sentence for the user."""


# ---- Making one ---------------------------------------------------------------------------------------------------------

def tool_output(*words):
    try:
        return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise BundleError(f"found no {words[0]} on the PATH, which packing needs") from None
    except subprocess.CalledProcessError as error:
        what = (error.stderr or error.stdout).strip() or f"exit status {error.returncode}"
        raise BundleError(f"'{' '.join(map(str, words))}' failed: {what}") from None


def libraries_of(file):
    """Path by name of what the file needs, directly or not, but for glibc and CUDA."""
    found = {}
    for line in tool_output("ldd", file).splitlines():
        match = re.match(r"\s*(\S+) => (not found|\S+)", line)
        if not match or OF_THE_MACHINE.fullmatch(match[1]) or OF_CUDA.fullmatch(match[1]):
            continue
        if match[2] == "not found":
            raise BundleError(f"{file} needs {match[1]}, which ldd does not find here")
        found[match[1]] = Path(match[2])
    return found


def cuda_libraries_of(plugin):
    return [name for name in re.findall(r"\(NEEDED\)\s+Shared library: \[(\S+)\]", tool_output("readelf", "-d", plugin))
            if OF_CUDA.fullmatch(name)]


def glibc_needed(files):
    """The newest version of glibc's symbols that any of them asks for, as (2, 36)."""
    versions = {tuple(map(int, found)) for file in files
                for found in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", tool_output("readelf", "-VW", file))}
    return max(versions, default=(2, 0))


def built_files(build):
    """Program, plug-in and tests of a build folder, by name."""
    files = {}
    for path, what, option in (("src/revode", "program", "build it first"),
                               (f"src/{PLUGIN}", "plug-in for GPUs", "configure with -DREVODE_CUDA=ON and build"),
                               ("tests/backend/cuda_device_test", "tests", "configure with -DREVODE_TESTS=ON and build")):
        if not (build / path).is_file():
            raise BundleError(f"--build {build}: found no {what} at {build / path}; {option}")
        files[Path(path).name] = build / path
    return files


def configured(build, name):
    """What CMake's cache says, or nothing."""
    cache = build / "CMakeCache.txt"
    found = re.search(rf"^{name}:\w+=(.+)$", cache.read_text(), re.MULTILINE) if cache.exists() else None
    return found[1] if found else ""


def paths_of_openmpi(build):
    """Its folders by name, and its mpirun: that of the build."""
    launcher = Path(configured(build, "MPIEXEC_EXECUTABLE") or shutil.which("mpirun") or "mpirun")
    beside = launcher.parent / "ompi_info"
    text = tool_output(beside if beside.exists() else "ompi_info", "--parsable", "--path", "all")
    paths = {key: Path(value) for key, value in re.findall(r"^path:(\w+):(.+)$", text, re.MULTILINE)}
    if not (paths["bindir"] / "orted").exists():
        raise BundleError(f"found no orted in {paths['bindir']}: pack knows the files of Open MPI 4")
    return paths, launcher.resolve()


def scripts():
    """Those that are needed, with the modules beside them that they import and the scripts that they name, and so on."""
    found, left = set(), [TOOLS / name for name in SCRIPTS]
    while left:
        script = left.pop()
        if script in found or not script.is_file():
            continue
        found.add(script)
        for names in re.findall(r"^\s*(?:import|from) ([\w, ]+)|\"(\w+)\.py\"", script.read_text(), re.MULTILINE):
            left += [TOOLS / f"{name}.py" for each in names for name in re.findall(r"\w+", each)]
    return sorted(found)


def copy_all(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder / file.name)


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def pack(build, folder):
    """Makes the bundle and says what it holds."""
    programs = built_files(build)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} is there and not empty; expected a new folder, which pack makes")
    openmpi, launcher = paths_of_openmpi(build)
    orted = openmpi["bindir"] / "orted"
    plugins = sorted(path for path in openmpi["pkglibdir"].glob("mca_*.so") if not NEEDLESS_PLUGINS.fullmatch(path.name))
    left_out = sorted(path.name for path in openmpi["pkglibdir"].glob("mca_*.so") if NEEDLESS_PLUGINS.fullmatch(path.name))

    try:
        libraries = {}
        for file in (*programs.values(), launcher, orted, *plugins):
            libraries.update(libraries_of(file))
        (folder / "lib").mkdir(parents=True)
        for name, path in libraries.items():
            shutil.copy(path, folder / "lib" / name)
        copy_all(programs.values(), folder / "programs")
        shutil.copy(launcher, folder / "programs/mpirun")
        shutil.copy(orted, folder / "programs/orted")
        copy_all(plugins, folder / "openmpi/plugins")
        copy_all(openmpi["pkgdatadir"].glob("help-*.txt"), folder / "openmpi/help")
        copy_all((openmpi["sysconfdir"]).glob("openmpi-mca-params.conf"), folder / "openmpi/etc")
        pack_pmix(libraries, folder)
        copy_all(scripts(), folder / "tools")
        (folder / "bin").mkdir()
        write_program(folder / "bin/in_bundle", IN_BUNDLE)
        for name in ("revode", "cuda_device_test", "mpirun"):
            write_program(folder / "bin" / name, WRAPPER.format(name=name))
        objects = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]
        tool_output("strip", "--strip-unneeded", *objects)
        glibc = glibc_needed(objects)
        description = {"revision": tool_output(folder / "bin/revode", "--version").strip(), "machine": platform.machine(),
                       "glibc": ".".join(map(str, glibc)), "cuda_libraries": cuda_libraries_of(programs[PLUGIN]),
                       "cuda_architectures": configured(build, "REVODE_CUDA_ARCHITECTURES") or "unknown",
                       "openmpi_plugins_left_out": left_out}
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"{folder}: {size_of(folder) / 2**20:.1f} MiB, {description['revision']}, {platform.machine()}\n"
          f"  holds     program, plug-in, tests, scripts, {len(libraries)} libraries, mpirun, {len(plugins)} plugins of Open MPI\n"
          f"  left out  symbols for debuggers; {len(left_out)} plugins of Open MPI for networks, batch systems and OpenSHMEM\n"
          f"  expects   glibc {description['glibc']} or later, {', '.join(description['cuda_libraries'])}, "
          "the driver\n"
          f"  kernels   {description['cuda_architectures']} (as -DREVODE_CUDA_ARCHITECTURES said)\n"
          f"There: {folder.name}/tools/gpu_check run")
    if all(each.endswith("-real") for each in description["cuda_architectures"].split(";")):
        print("note: kernels that are '-real' alone run on GPUs of that compute capability and its later minor versions, on no "
              "others")


def pack_pmix(libraries, folder):
    """Its plugins and help lie around the library itself, behind links."""
    for name, path in libraries.items():
        if not name.startswith("libpmix.so"):
            continue
        real = path.resolve()
        share = real.parent.parent / "share"
        copy_all((each for each in (real.parent / "pmix").glob("*.so") if not NEEDLESS_PLUGINS.fullmatch(each.name)),
                 folder / "pmix/plugins")
        copy_all((share / "pmix").glob("help-*.txt"), folder / "pmix/help")
        copy_all(share.glob("pmix-mca-params.conf"), folder / "pmix/etc")


# ---- Using one ----------------------------------------------------------------------------------------------------------

class Bundle:
    """A bundle on the machine where it runs."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        try:
            self.description = json.loads((self.folder / DESCRIPTION).read_text())
        except FileNotFoundError:
            raise BundleError(f"--bundle {folder}: found no {DESCRIPTION} there; expected a folder made by "
                              "'gpu_check pack'") from None
        except ValueError as error:
            raise BundleError(f"{self.folder / DESCRIPTION} is no JSON: {error}") from None
        self.cuda_folders, self.cuda_missing = cuda_folders(self.description.get("cuda_libraries", []))

    def require_this_machine(self):
        there, here = self.description["machine"], platform.machine()
        if there != here:
            raise BundleError(f"--bundle {self.folder}: its programs are for {there}; this machine is {here}")
        needed = tuple(map(int, self.description["glibc"].split(".")))
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "no glibc").partition(" ")
        if name != "glibc" or tuple(map(int, version.split(".")[:2])) < needed:
            raise BundleError(f"--bundle {self.folder}: its programs need glibc {self.description['glibc']} or later; this "
                              f"machine has {name} {version}: pack on an older system")

    def program(self, name):
        return self.folder / "bin" / name

    def environment(self):
        """Of what is started from it. Other programs (Python, nvidia-smi) are not led to its libraries by it."""
        environment = {**os.environ, "REVODE_CUDA_LIBRARIES": ":".join(map(str, self.cuda_folders))}
        if os.geteuid() == 0:
            environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        # Ranks may outnumber cores; containers often forbid to read another process's memory.
        environment.update(OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none",
                           OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")
        return environment


def toolkit_folders():
    """Where CUDA toolkits have their libraries: the one that is named, that of nvcc on the PATH, the usual one."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    if nvcc := shutil.which("nvcc"):
        homes.append(Path(nvcc).resolve().parent.parent)
    homes.append("/usr/local/cuda")
    return [Path(home) / folder for home in homes if home
            for folder in ("lib64", "lib", f"targets/{platform.machine()}-linux/lib")]


def wheel_folders():
    """Folders of CUDA libraries that came with PyTorch's wheel; it is not imported, which would take seconds."""
    roots = []
    for name in ("nvidia", "torch"):
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or []) if spec else []:
            roots.append(Path(place) if name == "nvidia" else Path(place).parent / "nvidia")
    return list(dict.fromkeys(folder for root in roots for folder in sorted(root.glob("*/lib"))))


def cuda_folders(names):
    """Folders that hold these libraries, those of other CUDA libraries behind them; and the names that none holds."""
    wheels = wheel_folders()
    known = ""
    first, missing = [], []
    for name in names:
        holder = next((folder for folder in (*toolkit_folders(), *wheels) if (folder / name).exists()), None)
        if holder:
            first.append(holder)
            continue
        if not known:
            ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
            known = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout if ldconfig else " "
        if f"\t{name} " not in known:
            missing.append(name)
    return list(dict.fromkeys((*first, *wheels))), missing


def default_bundle():
    """The one that this script was packed into, if any."""
    folder = TOOLS.parent
    return folder if (folder / DESCRIPTION).exists() else None


if __name__ == "__main__":
    sys.exit("this is a module of gpu_check")
