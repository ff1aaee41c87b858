"""Real second processes, forked from one that has imported TensorFlow already."""

import multiprocessing
import os
import pathlib
import runpy
import sys

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["keras_prune_init.train.run"])


class Forked:
    """A module that runs as `python -m` would run it, without the time of its imports.

    Args:
        log: File for what it prints.
        module, arguments: As after `python -m`.
        env: What differs in its environment.
        before: A function that the process calls first.
    """

    def __init__(self, log: pathlib.Path, module, *arguments, env=None, before=None):
        self.log = log
        arguments = [str(a) for a in arguments]
        self._process = SERVER.Process(
            target=_run, args=(log, module, arguments, env or {}, before)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or `None` while it runs; minus the signal that ended it."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def logs_of(processes: list[Forked]) -> list[str]:
    """What they printed until they ended."""
    try:
        for process in processes:
            process.wait(timeout=300)
        return [process.printed() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(log, module, arguments, env, before):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(env)
    sys.argv = [module, *arguments]
    if before:
        before()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
