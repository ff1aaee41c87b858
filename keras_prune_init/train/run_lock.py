"""Let only one process at a time work in the folder of a run."""

import contextlib
import fcntl
import os
import pathlib
import socket
import tempfile
import time
from collections.abc import Iterator

from absl import logging

LOCK = "lock"  # who is at work at the moment


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keep a folder for this process; the system frees it if the process is killed.

    Hosts that share the folder respect this if its file system passes locks on, as NFS
    does. Where there are no locks, a file that names the process takes their place.

    Raises:
        FileExistsError: If another process has it.
        PermissionError: If the folder cannot be written to.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # an old lock may open all the same
        file = path.open("a+")
    except OSError as e:
        raise PermissionError(
            f"A run writes into its folder. Received: workdir={folder}, which cannot "
            f"be written to ({e}). Choose another --workdir."
        ) from e
    with file:
        ours, advice = _take(file, path)
        if not ours:
            raise FileExistsError(
                "One process at a time works on a run. Received: "
                f"workdir={folder}, in which {_holder(file)} is at "
                f"work. Wait until it has ended, or choose another --workdir. {advice}"
            )
        file.truncate(0)
        with contextlib.suppress(OSError):  # it is for people; the disk may be full
            mine = f"process {os.getpid()} on {socket.gethostname()}"
            os.write(file.fileno(), mine.encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing came of it


def _take(file, path):
    """Lock a file; return whether this process has it now, and what to do if not."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat()), ""
    except (BlockingIOError, FileNotFoundError):
        return False, ""
    except OSError as e:  # a network file system without locks
        logging.warning("%s cannot be locked (%s), only marked.", path.parent, e)
        advice = f"If it was killed, remove {path}, as no lock here ends with it."
        return not os.fstat(file.fileno()).st_size, advice


def _holder(file):
    for _ in range(20):  # it may have locked the file a moment ago
        file.seek(0)
        if text := file.read():
            return text
        time.sleep(0.05)
    return "another process"
