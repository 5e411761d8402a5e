#!/usr/bin/env python3
"""tools/check_includes.py finds each kind of violation in small trees made here, and nothing in a good one."""
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_includes  # noqa: E402

GOOD = {
    "include/revode/core/error.hpp": "#pragma once\n",
    "include/revode/model/slice.hpp": '#pragma once\n#include "revode/backend/backend.hpp"\n#include "revode/core/error.hpp"\n',
    "src/main.cpp": '#include <mpi.h>\n#include "commands/train.hpp"\nint main() { MPI_Init(nullptr, nullptr); }\n',
    "src/commands/train.hpp": '#include "revode/train/trainer.hpp"\n#include "revode/config/config.hpp"\n',
    "src/comm/communicator.cpp": '#include <mpi.h>\nint send() { return MPI_Send(); }\n',
    "src/checkpoint/writer.cpp": '#include <hdf5.h>\n#include <mpi.h>\nvoid f(MPI_Comm c) { H5Fopen(); MPI_Barrier(c); }\n',
    "src/config/options.cpp": '#include "revode/data/dataset.hpp"\n#include "revode/pipeline/schedule.hpp"\n',
    "src/backend/cpu/kernels.cpp": '#include "hwy/highway.h"\nHWY_BEFORE_NAMESPACE();\n',
    # Words in comments, text and numbers are no uses.
    "src/core/error.cpp": '#include "revode/core/error.hpp"\n// like MPI_Abort\n/* H5Fopen\n   hwy::x */\nconst char* s = "MPI_Send // \\" cudaMalloc";\n'
                          "int n = 1'000'000;\n",
}


class CheckIncludes(unittest.TestCase):
    def violations(self, **changes):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**GOOD, **changes.get("files", {})}.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            found, num_files = check_includes.check(folder)
            self.assertGreaterEqual(num_files, len(GOOD))
            return found

    def expect_one(self, name, text, where, words):
        found = self.violations(files={name: text})
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith(f"{name}:{where}:"), found[0])
        self.assertIn(words, found[0])

    def test_a_good_tree_has_no_violations(self):
        self.assertEqual(self.violations(), [])

    def test_an_upward_include_is_found(self):
        self.expect_one("src/core/random.cpp", '\n#include "revode/config/config.hpp"\n', 2, "core includes")
        self.expect_one("src/backend/registry.cpp", '#include "revode/model/slice.hpp"\n', 1, "backend includes")
        self.expect_one("src/files/host.cpp", '#include "revode/comm/communicator.hpp"\n', 1, "files includes")
        self.expect_one("src/data/input.cpp", '#include "revode/config/config.hpp"\n', 1, "data includes")
        self.expect_one("src/config/config.cpp", '#include "revode/checkpoint/checkpoint_reader.hpp"\n', 1, "config includes")
        self.expect_one("src/checkpoint/reader.cpp", '#include "revode/config/config.hpp"\n', 1, "checkpoint includes")
        self.expect_one("src/pipeline/executor.cpp", '#include "revode/config/config.hpp"\n', 1, "pipeline includes")

    def test_an_upward_include_of_a_private_header_is_found(self):
        self.expect_one("src/train/trainer.cpp", '#include "commands/train.hpp"\n', 1, "train includes")
        self.expect_one("src/train/other.cpp", '#include "../commands/train.hpp"\n', 1, "train includes")

    def test_mpi_outside_its_place_is_found(self):
        self.expect_one("src/train/trainer.cpp", "#include <mpi.h>\n", 1, "mpi.h")
        self.expect_one("src/train/trainer.cpp", "\n\nint r = MPI_Barrier(c);  // wait\n", 3, "MPI_Barrier")
        self.expect_one("src/checkpoint/reader.cpp", "void f() { MPI_Isend(); }\n", 1, "MPI_Isend")
        self.expect_one("src/data/dataset.cpp", "void f() { MPI_Barrier(c); }\n", 1, "MPI_Barrier")
        self.expect_one("src/pipeline/executor.cpp", "void f() { MPI_Isend(); }\n", 1, "MPI_Isend")

    def test_libraries_outside_their_places_are_found(self):
        self.expect_one("src/train/trainer.cpp", "#include <hdf5.h>\n", 1, "HDF5")
        self.expect_one("src/data/dataset.cpp", "#include <hdf5.h>\n", 1, "HDF5")
        self.expect_one("src/commands/info.cpp", "auto f = H5Fopen(0);\n", 1, "H5Fopen")
        self.expect_one("src/backend/reference/loops.cpp", "#include <hwy/highway.h>\n", 1, "highway")
        self.expect_one("src/model/loss.cpp", "auto d = hwy::f();\n", 1, "highway")
        self.expect_one("src/train/trainer.cpp", "int e = cudaMalloc();\n", 1, "CUDA")
        self.expect_one("src/model/loss.cpp", "#include <Spectra/SymEigsSolver.h>\n", 1, "Spectra")
        self.expect_one("src/commands/verify.cpp", "Eigen::VectorXd v;\n", 1, "Eigen")

    def test_a_folder_that_is_no_module_is_found(self):
        self.expect_one("src/helpers/things.cpp", "\n", 1, "no known module")
        self.expect_one("include/revode/loose.hpp", "\n", 1, "no known module")

    def test_a_header_that_is_not_known_to_compile_alone_is_found(self):
        self.expect_one("src/model/slice.cpp", '\n#include <vector>\n#include "revode/model/slice.hpp"\n', 2,
                        "expected revode/model/slice.hpp")
        self.expect_one("src/model/slice.cpp", "int i;\n", 1, "includes nothing first")

    def test_a_header_without_a_guard_is_found(self):
        self.expect_one("include/revode/core/buffer.hpp", "// #pragma once\nint i;\n", 1, "no #pragma once")

    def test_a_name_whose_header_only_comes_along_is_found(self):
        self.expect_one("src/data/dataset.cpp", "#include <vector>\n\nstd::vector<int> v;\nauto w = std::move(v);\n", 4,
                        "std::move without <utility>")
        self.expect_one("src/data/dataset.cpp", "auto t = fmt::format(f);\n", 1, "fmt:: without a header of fmt/")
        slice = {"include/revode/model/slice.hpp": "#pragma once\nstruct Slice {\n};\n"}
        found = self.violations(files={**slice, "src/pipeline/work.cpp": "int of(const Slice& slice);\n"})
        self.assertEqual(found, ["src/pipeline/work.cpp:1: uses Slice without include/revode/model/slice.hpp"])
        self.expect_one("tests/model/slice_test.cpp", "std::string s;\n", 1, "std::string without <string>")

    def test_a_name_comes_from_any_header_of_revodes_that_is_included(self):
        self.assertEqual(self.violations(files={
            "include/revode/model/slice.hpp": '#pragma once\n#include "revode/core/error.hpp"\nstruct Slice {\n};\n',
            "include/revode/core/error.hpp": "#pragma once\n#include <string>\n",
            "src/model/slice.cpp": '#include "revode/model/slice.hpp"\nstd::string name_of(const Slice&);\n',
            "src/pipeline/declared.cpp": "class Slice;\nint of(const Slice& slice);\n",
            "src/pipeline/other.cpp": "struct Slice {\n};\nSlice slice;\n"}), [])


if __name__ == "__main__":
    unittest.main()
