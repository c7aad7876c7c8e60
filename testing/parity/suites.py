"""Test suites that others wrote, where they are, and how they are run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_faultguard.options import SCOPES
from pytest_faultguard.options import STARTS

ORDERED = Path(__file__).parent / "ordered"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a suite is, once it is ready to run."""

    #: What the ids of its tests are relative to.
    root: Path
    ini: Path
    directory: Path


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How the tests of a session are guarded."""

    scope: str = "function"
    start: str = "fork"

    @property
    def flags(self) -> tuple[str, ...]:
        """As options of pytest."""
        return f"--faultguard-scope={self.scope}", f"--faultguard-start={self.start}"

    @property
    def is_clean(self) -> bool:
        """Whether nothing of pytest's own memory is in the children."""
        return self.start != "fork"

    def __str__(self) -> str:
        return f"{self.scope}, {self.start}"


#: As ``pytest --faultguard`` guards a suite: cheap enough for whole suites, the large ones as well.
SHARED = Ways(scope="session", start="fork")
#: Every other one that there is: with them the small suites are run.
OTHERS = tuple(
    ways
    for ways in (Ways(scope=scope, start=start) for start in STARTS for scope in SCOPES)
    if ways not in {Ways(), SHARED}
)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A test suite, and how it is run."""

    name: str
    #: The distribution that it belongs to; None for our own.
    distribution: str | None
    #: Its arguments for pytest.
    args: tuple[str, ...]
    #: Makes it ready in an empty directory.
    place: Callable[[Path], Place]
    #: How many of its tests are run, unless the command line says it; 0 for all of them.
    sample: int = 0
    #: As many with each of the other ways to guard; None where it is too large for that.
    small: int | None = None
    #: Whether its tests need each other: no sample is taken.
    is_whole: bool = False
    #: The plugins that it needs, by the names of their entry points. None: those that are installed, for it runs
    #: sessions of its own that need them.
    plugins: tuple[str, ...] | None = ()
    #: What guards it. Empty: some of its tests are marked.
    guard: tuple[str, ...] = ("--faultguard",)

    @property
    def version(self) -> str:
        """Its distribution with the version that is installed."""
        if self.distribution is None:
            return "our own"
        return f"{self.distribution} {importlib.metadata.version(self.distribution)}"


def _installed(module: str, sample: int, *, small: int | None = None) -> Suite:
    """The tests that are installed with a module."""
    package = module.partition(".")[0]

    def place(directory: Path) -> Place:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise RuntimeError(f"{package} is not installed")
        ini = directory / "pytest.ini"
        ini.write_text("[pytest]\n")
        # The folder above the package: else its own conftest.py would lie outside.
        return Place(root=Path(found.origin).parents[1], ini=ini, directory=directory)

    args = ("-m", "not slow", "--pyargs", module)
    return Suite(
        name=module,
        distribution=package,
        args=args,
        place=place,
        sample=sample,
        small=small,
        plugins=("hypothesispytest",),
    )


def _source(
    distribution: str, sample: int = 0, *, small: int | None = None, plugins: tuple[str, ...] | None = ()
) -> Suite:
    """The tests in the source distribution of what is installed, with its own settings for pytest."""

    def place(directory: Path) -> Place:
        wanted = f"{distribution}=={importlib.metadata.version(distribution)}"
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", ":all:", wanted]
        subprocess.run(command, cwd=directory, check=True, timeout=300)
        (archive,) = directory.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(directory, filter="data")
        (root,) = (one for one in directory.iterdir() if one.is_dir())
        return Place(root=root, ini=root / "pyproject.toml", directory=root)

    # What a suite of yesterday cannot import from the pytest of today costs one module, not all.
    args = ("--continue-on-collection-errors", "tests")
    return Suite(
        name=distribution,
        distribution=distribution,
        args=args,
        place=place,
        sample=sample,
        small=small,
        plugins=plugins,
    )


def _ordered() -> Suite:
    def place(directory: Path) -> Place:
        return Place(root=ORDERED, ini=ORDERED / "pytest.ini", directory=directory)

    return Suite(name="ordered", distribution=None, args=(str(ORDERED),), place=place, small=0, is_whole=True, guard=())


#: In the order of the table.
SUITES: tuple[Suite, ...] = (
    _installed("numpy._core", 1500),
    _installed("numpy.linalg", 0, small=100),
    _installed("numpy.lib", 1000),
    _installed("scipy.special", 1000),
    _installed("scipy.sparse", 1000),
    _source("flask", small=100, plugins=("flask_suite",)),
    _source("starlette", 500, plugins=("anyio",)),
    _source("pytest-order", 40, small=10, plugins=None),
    _ordered(),
)
