"""The example runs against the real binary: MI_BIN, by default ../../target/debug/mi."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import generate

HERE = pathlib.Path(__file__).resolve().parent
MI_BIN = os.environ.get("MI_BIN") or str(HERE.parent.parent / "target" / "debug" / "mi")
START_SECONDS = 60


class Platform:
    """One process on free ports, with directories of its own."""

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="mi-sdk-test-", ignore_cleanup_errors=True)
        path = pathlib.Path(self._directory.name)
        ready = path / "ready.json"
        arguments = ["up", "--data-dir", path / "data", "--config-dir", path / "config", "--ready-file", ready]
        arguments += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MI_")}
        self._log = open(path / "log", "w+b")
        self._process = subprocess.Popen([MI_BIN, *arguments], env=environment, stderr=self._log)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                self._log.seek(0)
                raise RuntimeError(f"the platform did not start:\n{self._log.read().decode()}")
            time.sleep(0.02)
        return json.loads(ready.read_text())

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._log.close()
        self._directory.cleanup()


class Example(unittest.TestCase):
    def test_it_prints_what_came_out(self):
        generate.generate()
        with Platform() as platform:
            environment = {**os.environ, "MI_ENDPOINT": platform["endpoint"], "MI_API_KEY": platform["api_key"]}
            done = subprocess.run(
                [sys.executable, HERE / "example.py"], env=environment, capture_output=True, text=True, timeout=120
            )
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.returncode, 0)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[:3], ["analyst is running", "input.txt has 8 bytes", "exit code: 0"])
        self.assertIn("3", lines)
        self.assertEqual(lines[-1], "nobody was hired: INTEGRATION_NOT_CONFIGURED")


if __name__ == "__main__":
    unittest.main()
