"""Beside pytest-asyncio: coroutines as tests and fixtures, loops of every scope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("pytest_asyncio")

#: From its documentation.
SAMPLES = """
import asyncio
import unittest

import pytest
import pytest_asyncio


@pytest.mark.asyncio
async def test_some_asyncio_code():
    res = await asyncio.sleep(0, b"expected result")
    assert b"expected result" == res


@pytest.mark.asyncio
async def test_failing():
    assert await asyncio.sleep(0, 1) == 2


@pytest_asyncio.fixture
async def async_gen_fixture():
    await asyncio.sleep(0)
    yield "a value"
    await asyncio.sleep(0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def async_fixture():
    return await asyncio.sleep(0, asyncio.get_running_loop())


@pytest.mark.asyncio
async def test_fixture(async_gen_fixture):
    assert async_gen_fixture == "a value"


@pytest.mark.asyncio(loop_scope="module")
async def test_loop_of_the_module(async_fixture):
    assert asyncio.get_running_loop() is async_fixture


@pytest.mark.asyncio(loop_scope="class")
class TestClassScopedLoop:
    @pytest_asyncio.fixture(loop_scope="class")
    async def my_fixture(self):
        return asyncio.get_running_loop()

    async def test_runs_in_same_loop_as_fixture(self, my_fixture):
        assert asyncio.get_running_loop() is my_fixture

    async def test_and_another(self, my_fixture):
        assert asyncio.get_running_loop() is my_fixture


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.asyncio
async def test_parametrized(number):
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(number)))


@pytest.mark.asyncio
@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
async def test_xfail():
    1 / await asyncio.sleep(0, 0)


@pytest.mark.asyncio
async def test_subprocess():
    process = await asyncio.create_subprocess_exec("echo", "word", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"word\\n"


@pytest_asyncio.fixture
async def broken():
    yield
    raise RuntimeError("in an async teardown")


@pytest.mark.asyncio
async def test_broken_teardown(broken):
    pass


class TestUnit(unittest.IsolatedAsyncioTestCase):
    async def test_isolated(self):
        await asyncio.sleep(0)
"""
STRICT = ("-o", "asyncio_default_fixture_loop_scope=function", "--asyncio-mode=strict")


def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(SAMPLES)
    _, guarded = side_by_side(*STRICT, *xdist_args, plugin="asyncio")
    assert guarded.counts == {"passed": 10, "failed": 1, "xfailed": 1, "errors": 1}
    assert guarded.warnings == []


def test_auto_mode(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SAMPLES.replace("@pytest.mark.asyncio\n", ""))
    _, guarded = side_by_side("--asyncio-mode=auto", plugin="asyncio")
    assert guarded.counts == {"passed": 10, "failed": 1, "xfailed": 1, "errors": 1}


def test_without_the_mark_it_stays_unsupported(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("async def test_coroutine(): pass")
    plain, guarded = side_by_side(*STRICT, plugin="asyncio")
    assert guarded.counts == plain.counts == {"failed": 1}
    assert "async def functions are not natively supported" in guarded.text


def test_a_crash_in_a_coroutine(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    """In a task of the loop, in an async fixture and in a thread of the loop; the next test has a loop that works."""
    pytester.makepyfile(
        """
        import asyncio

        import pytest
        import pytest_asyncio

        from programs import lib

        pytestmark = pytest.mark.asyncio


        async def crash():
            await asyncio.sleep(0)
            lib.null_write()


        async def test_task():
            await asyncio.gather(asyncio.sleep(30), crash())


        async def test_after():
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))


        async def test_thread():
            await asyncio.to_thread(lib.null_write)


        @pytest_asyncio.fixture
        async def broken():
            await crash()


        async def test_fixture(broken):
            pass


        @pytest_asyncio.fixture
        async def broken_end():
            yield
            await crash()


        async def test_teardown(broken_end):
            pass


        async def test_last():
            await asyncio.sleep(0)
        """
    )
    session = side_by_side.session("--faultguard", *STRICT, *xdist_args, plugin="asyncio")
    outcomes = {name.partition("::")[2]: phases for name, phases in session.outcomes.items()}
    fine = ["setup passed", "call passed", "teardown passed"]
    assert outcomes == {
        "test_task": ["setup passed", "call failed", "teardown passed"],
        "test_after": fine,
        "test_thread": ["setup passed", "call failed", "teardown passed"],
        "test_fixture": ["setup failed", "teardown passed"],
        "test_teardown": ["setup passed", "call passed", "teardown failed"],
        "test_last": fine,
    }
    assert all(str(message).startswith("SIGSEGV") for message in session.messages().values())
    (task,) = (one for one in session.reports if one.nodeid.endswith("test_task") and one.crash)
    assert "lib.null_write()" in task.longrepr


def test_a_loop_that_the_parent_has_set_up(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Marked tests among others, all in one loop of the module: the parent's goes on, as if they had not been."""
    pytester.makepyfile(
        """
        import asyncio

        import pytest
        import pytest_asyncio

        pytestmark = pytest.mark.asyncio(loop_scope="module")


        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def server():
            async def echo(reader, writer):
                writer.write(await reader.readline())
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            yield server.sockets[0].getsockname()[1]
            server.close()


        async def ask(port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"word\\n")
            assert await reader.readline() == b"word\\n"
            writer.close()
            await writer.wait_closed()


        async def test_first(server):
            await ask(server)


        @pytest.mark.faultguard
        async def test_guarded(server):
            assert await asyncio.sleep(0.01, 1) == 1
            await asyncio.to_thread(int)


        @pytest.mark.faultguard
        async def test_guarded_again(server):
            process = await asyncio.create_subprocess_exec("echo", "word", stdout=asyncio.subprocess.PIPE)
            assert await process.communicate() == (b"word\\n", None)


        async def test_last(server):
            await ask(server)
        """
    )
    session = side_by_side.session(*STRICT, "-Werror", plugin="asyncio")
    assert {name.partition("::")[2] for name in session.guarded} == {"test_guarded", "test_guarded_again"}
    assert session.counts == {"passed": 4}, session.text
