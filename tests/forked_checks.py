"""Starts the check of an export in a fork of a process that has imported TensorFlow and nothing else.

:mod:`tfft.exporting.parity` runs each written model in a process without Keras and without tfft. Such a process
imports TensorFlow for about five seconds of computing and then works for less than one. Here one process per test
session imports it; every check then is a fork of it: a process of its own, in which no model ran before. Processes that
tests start themselves, the notebooks and the demo run the script as users do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

SCRIPT = "parity_worker.py"


class Forks:
    """Runs commands of `parity_worker.py` in forks, and all others as `subprocess.run` does."""

    def __init__(self, run: Callable[..., subprocess.CompletedProcess]) -> None:
        self._run, self._server, self._usable = run, None, True

    def run(self, command: Any, **settings: Any) -> subprocess.CompletedProcess:
        check = isinstance(command, list) and len(command) > 2 and str(command[2]).endswith(SCRIPT)
        if not check or not self._usable:
            return self._run(command, **settings)
        if self._server is None:
            self._server = self._start(settings["env"])
        with tempfile.TemporaryFile("w+") as said:
            request = {"argv": command[2:], "cwd": settings["cwd"], "said": f"/proc/{os.getpid()}/fd/{said.fileno()}"}
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            code = self._server.stdout.readline()
            if not code:  # TensorFlow started threads
                self._usable = False
                return self._run(command, **settings)
            said.seek(0)
            return subprocess.CompletedProcess(command, int(code), "", said.read())

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
                sys.argv = request["argv"]
                runpy.run_path(sys.argv[0], run_name="__main__")
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
