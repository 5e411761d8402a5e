#!/usr/bin/env python3
"""tools/kernel_report: what it reads out of ptxas' report, and what it says without a compiler."""
import importlib.machinery
import importlib.util
import subprocess
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
TOOL = Path(__file__).resolve().parents[2] / "tools/kernel_report"


def load():
    loader = importlib.machinery.SourceFileLoader("kernel_report", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_report", loader))
    loader.exec_module(module)
    return module


def entry(form, length, name, registers, stack=0, spills=(0, 0)):
    mangled = f"_ZN6revode4cuda47_GLOBAL__N__ff_14_device_cuda_cu_e{length}{form}_kernelINS0_{name}EEEvT_l"
    return (f"ptxas info    : Compiling entry function '{mangled}' for 'sm_90a'\n"
            f"ptxas info    : Function properties for {mangled}\n"
            f"    {stack} bytes stack frame, {spills[0]} bytes spill stores, {spills[1]} bytes spill loads\n"
            f"ptxas info    : Used {registers}\nptxas info    : Compile time = 23.495 ms\n")


class KernelReport(unittest.TestCase):
    def test_reads_each_kernel(self):
        text = (entry("elementwise", 18, "7SgdStepE", "24 registers, used 0 barriers") +
                entry("blocks", 13, "14RegularizeRowsE", "40 registers, used 1 barriers, 6144 bytes smem", 16, (8, 12)) +
                entry("elementwise", 18, "18PackForTensorCoresILNS_9PrecisionE2EE", "30 registers") +
                entry("clusters", 15, "13RetreatImagesINS0_13FusedProductsILi8EEEEE", "128 registers, used 1 barriers") +
                entry("clusters", 15, "13AdvanceImagesINS0_14TensorProductsILNS_9PrecisionE1EEEEE", "127 registers"))

        self.assertEqual(load().kernels_of(text), [("AdvanceImages<TensorProducts<tf32>>", "clusters", 127, 0, 0, 0),
                                                   ("PackForTensorCores<bf16>", "elementwise", 30, 0, 0, 0),
                                                   ("RegularizeRows", "blocks", 40, 6144, 16, 20),
                                                   ("RetreatImages<FusedProducts<8>>", "clusters", 128, 0, 0, 0),
                                                   ("SgdStep", "elementwise", 24, 0, 0, 0)])

    def test_names_a_compiler_that_is_not_there(self):
        ended = subprocess.run([sys.executable, TOOL, "--nvcc", "no-such-nvcc"], capture_output=True, text=True)

        self.assertEqual(ended.returncode, 2)
        self.assertEqual(ended.stderr, "kernel_report: error: --nvcc: found no program 'no-such-nvcc'; expected the CUDA "
                                       "toolkit's nvcc\n")


if __name__ == "__main__":
    unittest.main()
