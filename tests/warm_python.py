"""
A Python that has imported PyTorch, MONAI and the bundle already: what takes 10 seconds of each process is done once.

:func:`warm_python` gives a program that takes the place of Python in `python -m monai.bundle ...`,
`python -m scripts...` and `python -m dicom_node`: it hands its arguments, folder, environment and open files to a
server, which forks, and ends with the status of what ran there. Anything else it leaves to Python itself. So it shows
nothing of what happens while modules are imported, and a run there has not the limits of the process that asked, gets
none of its signals, and is killed when it ends; tests of these take `sys.executable`.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
CLIENT = """#!{python} -IS
import json, os, socket, sys
module = sys.argv[2] if sys.argv[1:2] == ["-m"] else ""
if module not in ("monai.bundle", "dicom_node") and not module.startswith("scripts."):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [asked], [0, 1, 2])
    sys.exit(int(server.recv(16)))
"""
LARGEST_REQUEST = 1 << 17
FORK = multiprocessing.get_context("fork")


@cache
def warm_python() -> Path:
    """The program; its server ends with this process. Python itself where processes cannot be forked."""
    if not hasattr(os, "fork"):
        return Path(sys.executable)
    folder = Path(tempfile.mkdtemp(prefix="warm_python_"))
    address, program = folder / "server", folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=BUNDLE
    )
    assert server.stdout.readline() == b"ready\n"
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)
    return program


def serve(address: str) -> None:
    """Answers until standard input ends."""
    sys.path[0] = str(BUNDLE)
    import monai.bundle  # noqa: F401

    import scripts  # noqa: F401

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:
            connection, _ = listener.accept()
            FORK.Process(target=answer, args=(connection,)).start()
            connection.close()


def answer(connection: socket.socket) -> None:
    asked, files, *_ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
    process = FORK.Process(target=be_python, args=(*json.loads(asked), files))
    process.start()
    if connection in wait([process.sentinel, connection]):  # who asked has ended
        process.kill()
    process.join()
    with suppress(BrokenPipeError):  # who asked was killed
        connection.send(str(process.exitcode % 256).encode())


def be_python(arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """What `python -m` does with these arguments."""
    import torch

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = arguments
    if "OMP_NUM_THREADS" in environment:
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except Exception:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


if __name__ == "__main__":
    serve(sys.argv[1])
