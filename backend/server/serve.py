"""`python -m backend serve`: the life of the backend process, from its handshake to its last five seconds.

Threads: the main one runs the event loop; "parent" reads standard input to its end; "lifeline" looks for the parent
every five seconds; the queue has a dispatcher per device. Only the handshake line goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from backend import __version__
from backend.contract import PROTOCOL
from backend.contract.errors import MaquetteError
from backend.contract.messages import Handshake, to_json
from backend.jobs import lifeline
from backend.jobs.blob_store import BlobStore
from backend.jobs.executors import LocalExecutor
from backend.jobs.failures import failure_from
from backend.jobs.job_queue import JobQueue
from backend.jobs.logs import log_to_file
from backend.server.app import create_app
from backend.server.data_folder import open_data_folder, open_journal
from backend.server.settings import Settings

logger = logging.getLogger(__name__)

GREETING_SECONDS = 20.0
"""The parent waits this long for our line, so we wait as long for its own."""

GREETING_BYTES = 4096
PARENT_CHECK_SECONDS = 5.0

LAST_SECONDS = 4.0
"""A shutdown that hangs is cut here: no process may be left five seconds after the parent."""

BACKLOG = 1024
"""Connections the kernel holds for us: 200 at once is the tested load."""

EXIT_FAILED = 3
TOKEN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Greeting:
    """The line the parent sends."""

    token: str
    parent_pid: int


class Server(uvicorn.Server):
    """uvicorn, printing the handshake once it answers and closing the event streams when it stops."""

    handshake: Handshake
    console: Path

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, then say so."""
        await super().startup(sockets)
        if self.started:
            print_line(to_json(self.handshake))
            redirect_output(self.console)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: uvicorn waits for open answers."""
        self.config.app.state.hub.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


class Stopper:
    """Begins the shutdown once, from any thread, and cuts it when it takes too long."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.server: Server | None = None

    def stop(self, reason: str) -> None:
        """Begin to stop."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        logger.info("stopping: %s", reason)
        cut = threading.Timer(LAST_SECONDS, self._cut)
        cut.daemon = True
        cut.start()
        if self.server is not None:
            self.server.should_exit = True

    def _cut(self) -> None:
        logger.error("the shutdown hangs; leaving now")
        os._exit(1)  # the worker sees the end of its input


def main(argv: list[str]) -> int:
    """Run a backend until its parent leaves. Returns the exit status: 0, or 3 with an {"error": Failure} line."""
    options = parse_options(argv)
    stopper = Stopper()
    if hasattr(signal, "SIGHUP"):
        # The signal also comes when only the thread that started us ends, so look before leaving.
        parent = os.getppid()
        signal.signal(signal.SIGHUP, lambda *_: stopper.stop("the parent died") if os.getppid() != parent else None)
        lifeline.request_parent_death_signal(signal.SIGHUP)
    try:
        greeting = read_greeting(stopper)
        lock = open_data_folder(options.data)
        log_to_file(options.data / "logs" / "backend.log")
        serve(options, greeting, stopper)
        lock.close()
    except Exception as error:  # the border of the process: the parent gets a sentence, the log the rest
        logger.exception("the backend could not run")
        print_line({"error": to_json(failure_from(error))})
        return EXIT_FAILED
    return 0


def parse_options(argv: list[str]) -> argparse.Namespace:
    """The command line: data (Path), device, docs."""
    parser = argparse.ArgumentParser(prog="backend serve", description="Serve jobs on a free loopback port.")
    parser.add_argument("--data", type=Path, required=True, help="folder for jobs, blobs and logs")
    parser.add_argument("--device", default="auto", help="torch device of the worker; auto is the quickest there is")
    parser.add_argument("--docs", action="store_true", help="serve the OpenAPI pages")
    options = parser.parse_args(argv)
    options.data = options.data.absolute()
    return options


def serve(options: argparse.Namespace, greeting: Greeting, stopper: Stopper) -> None:
    """Bind, answer, and clean up. Errors: `MaquetteError`, OSError."""
    lifeline.kill_children_with_us()
    journal = open_journal(options.data)
    executor = LocalExecutor(options.data, options.device)
    jobs = JobQueue(options.data, journal, BlobStore(options.data / "blobs"), [executor])
    try:
        jobs.start()
        bound = bind()
        port = bound.getsockname()[1]
        settings = Settings(options.data, greeting.token, port, options.device, options.docs)
        app = create_app(settings, jobs, lambda: stopper.stop("asked to"))
        # h11 and asyncio are named so that what else is installed cannot change the parser behind the gate.
        server = Server(uvicorn.Config(
            app, http="h11", loop="asyncio", ws="none", lifespan="on", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=60, timeout_graceful_shutdown=1, backlog=BACKLOG,
        ))  # fmt: skip
        server.handshake = Handshake(port, os.getpid(), PROTOCOL, __version__)
        server.console = options.data / "logs" / "console.log"
        stopper.server = server
        threading.Thread(target=watch_parent, args=(greeting.parent_pid, stopper), name="lifeline", daemon=True).start()
        # uvicorn handles these while it runs and passes them on to us when it has ended.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopper.stop("a signal"))
        if not stopper.stopping.is_set():
            server.run(sockets=[bound])
        stopper.stop("the server ended")
    finally:
        jobs.stop()
        journal.close()
    logger.info("stopped")


def bind() -> socket.socket:
    """A listening socket on a free loopback port. Errors: OSError."""
    # asyncio turns Nagle's algorithm off only for sockets that name TCP; with it each answer took 44 ms, not 3.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    bound.listen(BACKLOG)
    return bound


def read_greeting(stopper: Stopper) -> Greeting:
    """The parent's greeting; from then on the end of standard input stops us. Errors: `MaquetteError` bad_input."""
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_input, args=(lines, stopper), name="parent", daemon=True).start()
    try:
        return parse_greeting(lines.get(timeout=GREETING_SECONDS))
    except queue.Empty:
        return parse_greeting(b"")


def parse_greeting(line: bytes) -> Greeting:
    """The greeting in `line`. Errors: `MaquetteError` bad_input."""
    try:
        data = json.loads(line)
        greeting = Greeting(data["token"], data.get("parent_pid", 0))
        if TOKEN.fullmatch(greeting.token) and isinstance(greeting.parent_pid, int):
            return greeting
        detail = "token or parent_pid is malformed"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = f"{type(error).__name__}: {error}"
    raise MaquetteError("bad_input", "The backend was not greeted as agreed. Start it from Blender.", detail)


def watch_parent(pid: int, stopper: Stopper) -> None:
    """Stop once the process `pid` is gone; 0 means that nobody is to be watched."""
    while pid and not stopper.stopping.wait(PARENT_CHECK_SECONDS):
        if not lifeline.is_alive(pid):
            stopper.stop("the parent is gone")


def print_line(value: dict[str, object]) -> None:
    """One JSON line on standard output, now."""
    try:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()
    except OSError:
        logger.info("nobody reads our output")


def redirect_output(path: Path) -> None:
    """Send what libraries and dying interpreters print to `path`, begun afresh at each start.

    Nothing may reach the parent's pipes, which it need not read: a full pipe would block us. Errors: OSError.
    """
    console = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(console, 1)
    os.dup2(console, 2)
    os.close(console)


def _read_input(lines: queue.Queue[bytes], stopper: Stopper) -> None:
    """Hand on the first line, then wait for the end. Raw reads: a buffered one would hold a lock at exit."""
    start = b""
    handed_on = False
    descriptor = sys.stdin.fileno()
    while data := os.read(descriptor, GREETING_BYTES):
        if not handed_on:
            start += data
            if b"\n" in start or len(start) > GREETING_BYTES:
                lines.put(start.split(b"\n")[0])
                handed_on = True
    if not handed_on:
        lines.put(start)
    stopper.stop("the parent closed our input")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
