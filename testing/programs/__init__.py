"""Ways to die in native code: one C file per way, built once into one library, called from inner sessions.

An inner session imports nothing from this checkout: the fixture `programs` writes it a module, `programs.py`, with
the library's path and every signature in it: `from programs import lib, pylib`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ("-g", "-O0", "-fPIC", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")
_BUILD_SECONDS = 120

#: What each function takes and gives, in the words of ctypes.
SIGNATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "null_write": ((), "None"),
    "abort_": ((), "None"),
    "assert_": ((), "None"),
    "double_free": ((), "None"),
    "cxx_exception": ((), "None"),
    "stack_overflow": ((), "c_int"),
    "sigfpe": ((), "c_int"),
    "sigill": ((), "None"),
    "sigbus": ((), "None"),
    "exit3": ((), "None"),
    "exit0": ((), "None"),
    "loop_gil": ((), "None"),
    "loop_blocked": ((), "None"),
    "native_thread_crash": (("c_int",), "c_int"),
    "native_thread_abort": (("c_int",), "c_int"),
    "stop_self": ((), "c_int"),
    "block_all_signals": ((), "c_int"),
    "close_all_fds": ((), "None"),
    "kill_self": (("c_int",), "c_long"),
    "write_stderr_then_abort": (("c_char_p",), "None"),
    "scribble": (("c_void_p", "c_size_t"), "None"),
    "no_fork": (("c_int",), "c_int"),
    "pool": (("c_int",), "c_int"),
    "die_in_destructor": ((), "None"),
}


def sources() -> list[Path]:
    """Every C and C++ file of this directory."""
    return sorted(path for path in _SOURCES.iterdir() if path.suffix in {".c", ".cpp"})


def missing(code: str) -> str:
    """Why this code cannot be run here: it calls what is written in C++, and there is no compiler; else empty."""
    found = next((path.stem for path in sources() if path.suffix == ".cpp" and f".{path.stem}(" in code), "")
    return f"{found} of testing/programs needs a C++ compiler ($CXX)" if found and _found("CXX", "g++") is None else ""


def build(directory: Path) -> Path:
    """Give `directory/libprograms.so`, built at the first call; safe when several processes ask at once."""
    library = directory / "libprograms.so"
    with (directory / "libprograms.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(library)
    return library


def module(library: Path) -> str:
    """The text of `programs.py`: the library twice, `lib` lets go of the GIL during a call and `pylib` holds it."""
    lines = [
        '"""Ways to die in native code: `lib` lets go of the GIL during a call, `pylib` holds it."""',
        "",
        "from ctypes import CDLL, PyDLL, c_char_p, c_int, c_long, c_size_t, c_void_p",
        "",
        f"LIBRARY = {str(library)!r}",
        "lib = CDLL(LIBRARY)",
        "pylib = PyDLL(LIBRARY)",
        "",
        "for _library in (lib, pylib):",
    ]
    for name, (arguments, result) in SIGNATURES.items():
        if reason := missing(f"lib.{name}()"):
            lines.append(f"    _library.{name} = lambda: __import__('pytest').skip({reason!r})")
            continue
        lines.append(f"    _library.{name}.argtypes = [{', '.join(arguments)}]")
        lines.append(f"    _library.{name}.restype = {result}")
    return "\n".join(lines) + "\n"


def _compile(library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects = Path(scratch)
        c_files = [str(path) for path in sources() if path.suffix == ".c"]
        cxx_files = [str(path) for path in sources() if path.suffix == ".cpp"]
        compiler, cxx_compiler = _found("CC", "gcc"), _found("CXX", "g++")
        if compiler is None:
            raise FileNotFoundError("no C compiler ($CC, or gcc): testing/programs needs one")
        _run(compiler, *_FLAGS, "-c", *c_files, directory=objects)
        if cxx_compiler is not None:
            _run(cxx_compiler, *_FLAGS, "-c", *cxx_files, directory=objects)
        names = sorted(path.name for path in objects.glob("*.o"))
        _run(cxx_compiler or compiler, "-shared", "-pthread", "-o", library.name, *names, directory=objects)
        (objects / library.name).replace(library)


def _found(variable: str, default: str) -> str | None:
    return shutil.which(os.environ.get(variable, default))


def _run(*command: str, directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"cannot build testing/programs: {' '.join(command)}\n{done.stdout}{done.stderr}")
