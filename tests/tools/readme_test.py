#!/usr/bin/env python3
"""README.md and docs/: what their commands leave in the repository is ignored by git, and the reading order is a list of
pages that exist, each named once.
"""
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# What names a file or folder that a command writes, in these pages' examples.
WRITES = re.compile(r"(?:(?<=\s)-o|--output|--json|--trace|tools/fetch_data \w+) ([\w./$-]+)")


def commands(page):
    """Lines of a page's shell examples."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0] for block in blocks for line in block.splitlines()]


def written():
    """Paths that commands in the pages write, with words for variables, and what goes to standard output left out."""
    paths = {path for page in PAGES for line in commands(page) for path in WRITES.findall(line)}
    paths = {path.replace("$t", "2") for path in paths} - {"-"}
    return {path for path in paths if "$" not in path and not re.fullmatch("[A-Z]+", path) and not path.startswith("/")}


class Readme(unittest.TestCase):
    @unittest.skipUnless(shutil.which("git"), "git is not installed")
    def test_files_that_its_commands_leave_are_ignored_by_git(self):
        paths = written() | {"runs/quickstart/latest.h5", "runs/quickstart/metrics.jsonl", "build/src/revode",
                             "revode-train-7.log", "revode-train-7.json", "RUN-test.json"}
        self.assertLess({"metrics.png", "logits.h5", "gradient.h5", "data/cifar10", "bench.json", "RUN-test.json"}, paths)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["git", "init", "-q", folder], check=True)
            shutil.copy(REPOSITORY / ".gitignore", folder)
            for path in sorted(paths):
                # Below a folder of that name as well: data/ is ignored as a folder.
                for name in (path, f"{path}/x"):
                    ignored = subprocess.run(["git", "-C", folder, "check-ignore", "-q", name]).returncode == 0
                    self.assertTrue(ignored, f"git does not ignore {name}")
            for name in ("CMakePresets.json", "README.md", "docs/depth-first.svg", "tests/checkpoint/data.h5"):
                ignored = subprocess.run(["git", "-C", folder, "check-ignore", "-q", name]).returncode == 0
                self.assertFalse(ignored, f"git ignores {name}")

    def test_reading_order_names_each_page_once_and_only_what_is_there(self):
        order = README.partition("## Read these files in this order")[2].partition("\n## ")[0]
        links = re.findall(r"\]\(([^)]+)\)", order)
        files = re.findall(r"`([\w/.]+)`", order)

        self.assertEqual(sorted(links), sorted(set(links)))
        self.assertEqual(set(links), {f"docs/{page.name}" for page in PAGES[1:]})
        for path in [*links, *files]:
            self.assertTrue((REPOSITORY / path).exists(), path)

    def test_root_and_oversubscribing_are_told_before_the_first_mpirun_to_type(self):
        before = README.partition("## First runs")[2].partition("```sh")[0]

        self.assertIn("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", before)
        self.assertIn("--oversubscribe", before)


if __name__ == "__main__":
    unittest.main()
