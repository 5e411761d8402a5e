#!/usr/bin/env python3
"""tools/fetch_data against a small archive served from 127.0.0.1: whole, interrupted, damaged, incomplete."""
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
from pathlib import Path

FETCH_DATA = Path(__file__).resolve().parents[2] / "tools" / "fetch_data"
CONTENTS = {"train.bin": bytes(range(256)) * 1200, "test.bin": b"\x01\x02\x03" * 5000}


def make_archive(contents):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in {"readme.html": b"no data", **contents}.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves server.archive; breaks off after server.break_after bytes where that is set; obeys Range where allowed."""

    def do_GET(self):
        server, archive, start = self.server, self.server.archive, 0
        requested = self.headers.get("Range")
        server.ranges.append(requested)
        if requested and server.allow_ranges:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(archive) - start))
        self.end_headers()
        end = len(archive) if server.break_after is None else start + server.break_after
        self.wfile.write(archive[start:end])

    def log_message(self, *arguments):
        pass


class FetchData(unittest.TestCase):
    def setUp(self):
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.server.archive, self.server.ranges = make_archive(CONTENTS), []
        self.server.break_after, self.server.allow_ranges = None, True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.folder = Path(scratch.name, "new", "data")

    def fetch(self, *more, md5=None):
        url = f"http://127.0.0.1:{self.server.server_port}/cifar-100-binary.tar.gz"
        digest = md5 or hashlib.md5(self.server.archive).hexdigest()
        return subprocess.run([sys.executable, FETCH_DATA, "cifar100", self.folder, "--url", url, "--md5", digest, *more],
                              capture_output=True, text=True, timeout=60)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir())

    def expect_all_files(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.names(), sorted(CONTENTS))
        for name, data in CONTENTS.items():
            self.assertEqual(Path(self.folder, name).read_bytes(), data)

    def test_whole_archive_is_unpacked_flat_and_nothing_else_stays(self):
        result = self.fetch()

        self.expect_all_files(result)
        self.assertIn(f"--dataset cifar100 --data-dir {self.folder}", result.stdout)

    def test_second_run_downloads_nothing_unless_forced(self):
        self.fetch()

        self.expect_all_files(self.fetch())
        self.assertEqual(len(self.server.ranges), 1)
        self.expect_all_files(self.fetch("--force"))
        self.assertEqual(len(self.server.ranges), 2)

    def test_interrupted_download_goes_on_where_it_stopped(self):
        self.server.break_after = 700
        broken = self.fetch()
        self.assertEqual(broken.returncode, 1)
        self.assertIn("run the same command again", broken.stderr)
        self.assertEqual(self.names(), [".cifar100.tar.gz.part"])
        self.server.break_after = None

        self.expect_all_files(self.fetch())
        self.assertEqual(self.server.ranges, [None, "bytes=700-"])

    def test_server_without_ranges_is_asked_for_everything_again(self):
        self.server.break_after, self.server.allow_ranges = 700, False
        self.fetch()
        self.server.break_after = None

        self.expect_all_files(self.fetch())

    def test_wrong_digest_unpacks_nothing_and_keeps_nothing(self):
        result = self.fetch(md5="0" * 32)

        self.assertEqual(result.returncode, 1)
        self.assertIn("expected " + "0" * 32, result.stderr)
        self.assertEqual(self.names(), [])

    def test_archive_that_lacks_a_file_unpacks_nothing(self):
        self.server.archive = make_archive({"train.bin": b"x"})

        result = self.fetch()

        self.assertEqual(result.returncode, 1)
        self.assertIn("test.bin", result.stderr)
        self.assertFalse(Path(self.folder, "train.bin").exists())

    def test_unreachable_server_is_one_clear_sentence(self):
        result = self.fetch("--url", "http://127.0.0.1:9/none.tar.gz")

        self.assertEqual(result.returncode, 1)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        self.assertIn("could not download http://127.0.0.1:9/none.tar.gz", result.stderr)


if __name__ == "__main__":
    unittest.main()
