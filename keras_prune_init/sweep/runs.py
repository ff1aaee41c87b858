"""One run of a sweep: its process, its log and its folder."""

import fcntl
import json
import pathlib
import signal
import subprocess
import sys

from absl import logging

from keras_prune_init.train import run_folder


def finished(folder: pathlib.Path) -> dict | None:
    """Return the result of a run, or `None` if it has not finished."""
    result = run_folder.read_result(folder)
    return result if result and result["finished"] else None


def prepare(folder: pathlib.Path, arguments: list[str]) -> None:
    """Write the flags of a run beside its folder; a ValueError if it has others."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f"{folder.name}.json"
    earlier = run_folder.read_json(beside)
    if earlier is not None and earlier != arguments:
        raise ValueError(
            "A sweep goes on with the flags it was started with. Received: "
            f"{' '.join(arguments)}, and {beside} has {' '.join(earlier)}. Use these, "
            "or another --workdir."
        )
    run_folder.write_json(beside, arguments)


def run(folder: pathlib.Path, arguments: list[str]) -> bool:
    """Start or continue a run with these flags; return whether it is finished then.

    Its output is written to FOLDER.log beside its folder.
    """
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        # The process inherits the lock: if this one is killed, it lasts until that one
        # has ended too.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for another process in %s", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished(folder):
            _start(folder, arguments, lock)
    return bool(finished(folder))


def _start(folder, arguments, lock):
    command = [sys.executable, "-m", "keras_prune_init.train", "--resume"]
    command += [f"--workdir={folder}", *arguments]
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        log.write(json.dumps(command) + "\n")
        log.flush()
        process, stopping = None, False

        def stop(*_):
            nonlocal stopping
            stopping = True
            if process:
                process.terminate()  # it saves first

        before = signal.signal(signal.SIGTERM, stop)
        try:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, pass_fds=[lock.fileno()]
            )
            if stopping:
                process.terminate()
            process.wait()
        except BaseException:  # such as that of SIGINT
            if process:
                process.terminate()
                process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if stopping:
        sys.exit(128 + signal.SIGTERM)
