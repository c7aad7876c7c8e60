"""One session of one tool on one small program: bounded in time and space, and nothing of it stays alive."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing.peers.tools import PLUGINS
from testing.peers.tools import Tool

SOURCES = Path(__file__).parent / "plugins"
BENCH_SOURCES = Path(__file__).parents[1] / "bench" / "plugins"
#: A session that takes longer hangs.
DEADLINE = 30.0
#: A process that ends with the session needs a moment for it.
MOMENT = 2.0
_PR_SET_CHILD_SUBREAPER = 36
_LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_CPU: 300,
    # A sparse file of memory counts with its whole size.
    resource.RLIMIT_FSIZE: 8 << 30,
    resource.RLIMIT_AS: 16 << 30,
}


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a session left."""

    #: As of ``subprocess``; None where it hung and was killed.
    status: int | None
    seconds: float
    events: Sequence[Mapping[str, Any]]
    output: str
    #: The contents of the files in its directory, those that the program wrote among them.
    files: Mapping[str, str]
    #: The names in its directory for temporary files.
    temporary: Sequence[str]
    #: How many processes outlived it.
    leftovers: int

    @property
    def went_on(self) -> bool:
        """Whether it came to its end and said passed or failed."""
        return self.status in {0, 1} and not self.of("internalerror")

    @property
    def ended(self) -> str:
        """In a word, where that is all there is to say."""
        if self.status is None:
            return "internal error, then hangs" if self.of("internalerror") else "hangs"
        if self.of("internalerror") or self.status == 3:
            return "internal error"
        return "pytest dies" if self.status < 0 else ""

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """The events of a kind, in their order."""
        return [event for event in self.events if event["kind"] == kind]

    def reports(self, test: str) -> list[Mapping[str, Any]]:
        """All reports of a test, by the name of its function."""
        return [event for event in self.of("report") if event["test"] == test]

    def outcome(self, test: str) -> str:
        """What the terminal counts it as: ``passed``, ``failed``, ``passed error``, ``rerun passed`` …; or nothing."""
        return " ".join(event["category"] for event in self.reports(test) if event["category"])

    def text(self, test: str) -> str:
        """All that the reports of a test say."""
        return "\n".join(
            text for event in self.reports(test) for text in (event["text"], *(text for _, text in event["sections"]))
        )


def bound_this_process() -> None:
    """Limits for all sessions; and what a session leaves comes to this process, which can then see and end it."""
    # SIGTERM ends what runs, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for limit, most in _LIMITS.items():
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Runs sessions of one tool: ``run({"test_it.py": …}, "-x")``."""

    tool: Tool
    python: Path
    workdir: Path

    def __call__(
        self,
        files: Mapping[str, str],
        *args: str,
        beside: Sequence[str] = (),
        inside: str = ".",
        plain: bool = False,
        env: Mapping[str, str] | None = None,
        send: int | None = None,
        deadline: float = DEADLINE,
    ) -> Done:
        """Run pytest on these files in a directory of its own.

        Args:
            files: their names and texts.
            args: of pytest.
            beside: the plugins that are to be there as well.
            inside: the directory to start it in.
            plain: the marks are without effect.
            env: more of the environment.
            send: a signal for pytest, as soon as a test calls ``peer.say()``.
            deadline: how long it may take.
        """
        with tempfile.TemporaryDirectory(prefix="session-", dir=self.workdir) as name:
            place = Path(name)
            project, temporary = place / "project", place / "tmp"
            temporary.mkdir()
            for file, text in {"pytest.ini": "[pytest]\n", **files}.items():
                (project / file).parent.mkdir(parents=True, exist_ok=True)
                (project / file).write_text(text)
            os.mkfifo(place / "fifo")
            blocked = [word for plugin in _absent(beside) for word in ("-p", f"no:{plugin}")]
            command = [str(self.python), "-m", "pytest", "-p", "record", "-p", "no:cacheprovider", *blocked, *args]
            started = time.monotonic()
            with open(place / "output", "wb") as output:
                process = subprocess.Popen(
                    command,
                    cwd=project / inside,
                    env={**self._environment(place, plain=plain), **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                status = _end(process, place / "fifo", send, started + deadline)
                seconds = time.monotonic() - started
            finally:
                leftovers = _sweep()
            record = place / "record.jsonl"
            return Done(
                status=status,
                seconds=seconds,
                leftovers=leftovers,
                events=[json.loads(line) for line in record.read_text().splitlines()] if record.exists() else [],
                output=(place / "output").read_text(errors="replace"),
                files={
                    str(file.relative_to(project)): file.read_text(errors="replace")
                    for file in sorted(project.rglob("*"))
                    if file.is_file() and file.suffix != ".pyc"
                },
                temporary=sorted(os.listdir(temporary)),
            )

    def _environment(self, place: Path, *, plain: bool) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
        return kept | {
            "PEERS_ARGUMENTS": json.dumps({} if plain else dict(self.tool.arguments)),
            "PEERS_FIFO": str(place / "fifo"),
            "PEERS_LIMIT": "plain" if plain else self.tool.limit,
            "PEERS_MARK": "plain" if plain else self.tool.mark,
            "PEERS_RECORD": str(place / "record.jsonl"),
            "COLUMNS": "120",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": f"{SOURCES}:{BENCH_SOURCES}",
            "TMPDIR": str(place / "tmp"),
        }


def _absent(beside: Sequence[str]) -> list[str]:
    # xdist is without effect until it is asked for by -n.
    return [plugin for name, plugin in PLUGINS.items() if name not in beside and name != "pytest-xdist"]


def _end(process: subprocess.Popen[bytes], fifo: Path, send: int | None, deadline: float) -> int | None:
    """Wait for the end, and for the word before it where a signal is to be sent; None at the deadline."""
    try:
        if send is not None:
            # Both ends: a program that writes finds a reader, and no end of file comes back.
            said = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
            try:
                if select.select([said], [], [], deadline - time.monotonic())[0]:
                    process.send_signal(send)
            finally:
                os.close(said)
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Its group is its own.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _sweep() -> int:
    """How many processes of the session are alive after a moment; then they are no more."""
    deadline = time.monotonic() + MOMENT
    try:
        for pid in _children():
            _wait(pid, deadline)
        return len(_children())
    finally:
        while pids := _children():
            # What they have started comes to this process when they end.
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _wait(pid: int, deadline: float) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        if select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def _children() -> list[int]:
    """The processes whose parent this one is; nothing else is a child of it when a session is over."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text()
        except OSError:
            continue
        # The second field is the name, which may hold anything.
        if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(name))
    return found
