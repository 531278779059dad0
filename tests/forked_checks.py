"""Starts the check of an export in a fork of a process that has imported TensorFlow and nothing else.

:mod:`tfft.exporting.parity` runs each written model in a process without Keras and without tfft. Such a process
imports TensorFlow for about five seconds of computing and then works for less than one. Here one process per test
session imports it; every check then is a fork of it: a process of its own, in which no model ran before. Processes that
tests start themselves, the notebooks and the demo run the script as users do.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

SCRIPT = str(pathlib.Path(__file__).parents[1] / "tfft" / "exporting" / "parity_worker.py")


class Fork:
    """Stands in for the process of `parity_worker.py`: it starts when it gets its job."""

    returncode: int | None = None

    def __init__(self, forks: Forks, folder: str) -> None:
        self._forks, self._folder = forks, folder

    def poll(self) -> int:
        return 0

    def communicate(self, job: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        if job is None:
            return "", ""
        self.returncode, said = self._forks.run(self._folder, job)
        return "", said


class Forks:
    """Runs jobs of `parity_worker.py` in forks, or in processes where TensorFlow's cannot be forked."""

    def __init__(
        self, start: Callable[[str], subprocess.Popen[str]], environment: Callable[[], dict[str, str]]
    ) -> None:
        self._start_process, self._environment = start, environment
        self._server, self._usable = None, True

    def start(self, folder: str) -> Fork | subprocess.Popen[str]:
        return Fork(self, folder) if self._usable else self._start_process(folder)

    def run(self, folder: str, job: str) -> tuple[int, str]:
        if self._server is None:
            self._server = self._start(self._environment())
        with tempfile.TemporaryFile("w+") as said:
            request = {"job": job, "cwd": folder, "said": f"/proc/{os.getpid()}/fd/{said.fileno()}"}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = self._server.stdout.readline()
            if not code:  # TensorFlow started threads
                self._usable = False
                process = self._start_process(folder)
                _, text = process.communicate(job)
                return process.returncode, text
            said.seek(0)
            return int(code), said.read()

    @staticmethod
    def _start(environment: dict[str, str]) -> subprocess.Popen[str]:
        alone = environment | {"OPENBLAS_NUM_THREADS": "1"}  # a process with threads cannot be forked safely
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-P", __file__], env=alone, text=True, **pipes)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()


def serve() -> None:
    """Answers each request on standard input with the exit code of a fork."""
    import runpy

    for name in ("keras", "tf_keras", "tensorflow_hub", "tfft"):  # as the script does, before it imports TensorFlow
        sys.modules[name] = None  # type: ignore[assignment]
    import tensorflow  # noqa: F401

    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("TensorFlow started threads when it was imported: its process cannot be forked.")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(request["cwd"])
            with open(request["said"], "w") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            code = 1
            try:
                sys.stdin = io.StringIO(request["job"])
                runpy.run_path(SCRIPT, run_name="__main__")
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
