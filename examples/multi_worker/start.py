"""Starts two workers on this machine, which score, prune and train together.

    python examples/multi_worker/start.py

Takes half a minute on two cores, and needs no download. Both print the same masks and
the same accuracy.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
for s in sockets:
    s.close()

script = pathlib.Path(__file__).with_name("worker.py")
workers = []
for number in range(len(hosts)):
    task = {"type": "worker", "index": number}
    told = json.dumps({"cluster": {"worker": hosts}, "task": task})
    environment = {**os.environ, "TF_CONFIG": told, "TF_CPP_MIN_LOG_LEVEL": "3"}
    workers.append(subprocess.Popen([sys.executable, script], env=environment))
sys.exit(max(worker.wait() for worker in workers))
