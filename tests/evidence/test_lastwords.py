from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_faultguard.evidence.lastwords import explain

DATA = Path(__file__).parent.parent / "data" / "lastwords"


@pytest.mark.parametrize(
    "line",
    [
        "free(): double free detected in tcache 2",
        "free(): invalid pointer",
        "free(): invalid size",
        "free(): invalid next size (fast)",
        "malloc(): corrupted top size",
        "malloc(): invalid size (unsorted)",
        "malloc(): unsorted double linked list corrupted",
        "malloc(): memory corruption (fast)",
        "malloc(): unaligned tcache chunk detected",
        "malloc(): mismatching next->prev_size (unsorted)",
        "malloc(): smallbin double linked list corrupted",
        "malloc(): largebin double linked list corrupted (nextsize)",
        "malloc_check_get_size(): memory corruption",
        "malloc_consolidate(): invalid chunk size",
        "free(): too many chunks detected in tcache",
        "free(): corrupted unsorted chunks",
        "break adjusted to free malloc space",
        "deleted virtual method called",
        "realloc(): invalid next size",
        "munmap_chunk(): invalid pointer",
        "mremap_chunk(): invalid pointer",
        "tcache_thread_shutdown(): unaligned tcache chunk detected",
        "corrupted size vs. prev_size",
        "corrupted size vs. prev_size while consolidating",
        "corrupted size vs. prev_size in fastbins",
        "corrupted double-linked list",
        "corrupted double-linked list (not small)",
        "double free or corruption (!prev)",
        "double free or corruption (out)",
        "double free or corruption (fasttop)",
        "*** stack smashing detected ***: terminated",
        "*** stack smashing detected ***: <unknown> terminated",
        "*** buffer overflow detected ***: terminated",
        "*** bit out of range 0 - FD_SETSIZE on fd_set ***: terminated",
        "*** %n in writable segment detected ***: terminated",
        "Fatal glibc error: malloc.c:2599 (sysmalloc): assertion failed: (old_top == initial_top (av) && old_size == 0)",
        "python3: symbol lookup error: ./_native.so: undefined symbol: frobnicate",
        "Inconsistency detected by ld.so: dl-version.c: 205: _dl_check_map_versions: Assertion `needed != NULL' failed!",
        "prog: file.c:12: func: Assertion `x > 0' failed.",
        'python3: ../src/matrix.cc:88: void Matrix::set(int, int): Assertion `row < rows && "row: out"\' failed.',
        "python: malloc.c:2379: sysmalloc: Assertion `(old_top == initial_top (av))' failed.",
        "Indexing.cu:1292: indexSelect: block: [0,0,0], thread: [64,0,0] Assertion `i < n` failed.",
        "Assertion failed: x > 0 (file.c: func: 12)",
        "Assertion failed: (x > 0), function func, file file.c, line 12.",
        "Assertion failed: x > 0, file file.c, line 12",
        "terminate called without an active exception",
        "terminate called recursively",
        "pure virtual method called",
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: bad index",
        "libc++abi: terminating with uncaught exception of type std::out_of_range: vector",
        "libc++abi.dylib: terminating with unexpected exception",
        "libc++abi: Pure virtual function called!",
        "Fatal Python error: none_dealloc: deallocating None: bug likely caused by a refcount error in a C extension",
        "Fatal Python error: _Py_CheckRecursiveCall: Cannot recover from stack overflow.",
        "Fatal Python error: Aborted by the user",
        "thread 'main' panicked at 'index out of bounds: the len is 3 but the index is 5', src/lib.rs:3:5",
        "memory allocation of 18446744073709551615 bytes failed",
        "thread '<unnamed>' has overflowed its stack",
        "fatal runtime error: stack overflow",
        "src/file.c:1:2: runtime error: signed integer overflow: 2147483647 + 1 cannot be represented in type 'int'",
        "WARNING: ThreadSanitizer: data race (pid=1234)",
        "[libprotobuf FATAL google/protobuf/message_lite.cc:79] CHECK failed: generated_factory != nullptr:",
        "[1234:1234:0317/110209.118342:FATAL:gpu_data_manager.cc(415)] GPU process isn't usable. Goodbye.",
        "table.cc:412: Check failed: row < rows_",
        "Check failed: row < rows_ (7 vs. 5)",
        "CHECK failed: (index) < (size)",
        'ASSERT: "!isEmpty()" in file /usr/include/qt5/QtCore/qlist.h, line 361',
        'ASSERT failure in QList<T>::at: "index out of range", file qlist.h, line 571',
        "QFATAL : tst::run() it broke",
        "QThread: Destroyed while thread is still running",
        "(process:1234): GLib-GObject-ERROR **: 12:00:00.000: cannot create instance",
        "ERROR:file.c:12:test_it: assertion failed: (x == 3)",
        "LLVM ERROR: Cannot select: intrinsic %llvm.x86.foo",
        "CUDA error: device-side assert triggered",
        "CUDA error at kernel.cu:12 code=700(cudaErrorIllegalAddress): an illegal memory access",
        "OMP: Error #15: Initializing libiomp5.so, but found libomp.so already initialized.",
        "Intel MKL FATAL ERROR: Cannot load libmkl_avx2.so.",
        "Fortran runtime error: Index '11' of dimension 1 of array 'a' above upper bound of 10",
    ],
)
def test_a_message_of_one_line_is_told_as_it_is(line: str) -> None:
    """After and before other output, and at the very end without a newline."""
    assert explain(line) == line
    assert explain(f"start\n{line}\nAborted (core dumped)\n") == line
    assert explain(f"start\r\n{line}\r\n") == line
    assert explain("nothing here\n", f"start\n{line}\n") == line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad index\n",
            "terminate called after throwing an instance of 'std::runtime_error': what(): bad index",
        ),
        (
            "terminate called after throwing an instance of 'int'\nAborted\n",
            "terminate called after throwing an instance of 'int'",
        ),
        (
            "terminate called after throwing an instance of 'A'\n  what():  \n",
            "terminate called after throwing an instance of 'A': what():",
        ),
        (
            "*** Error in `python3': double free or corruption (fasttop): 0x0000000001a7c010 ***\n======= Backtrace\n",
            "Error in `python3': double free or corruption (fasttop): 0x0000000001a7c010",
        ),
        (
            "python3(123,0x1f8) malloc: *** error for object 0x600: pointer being freed was not allocated\n",
            "*** error for object 0x600: pointer being freed was not allocated",
        ),
        (
            "src/tcmalloc.cc:284] Attempt to free invalid pointer 0x55d0\n",
            "Attempt to free invalid pointer 0x55d0",
        ),
        (
            "thread 'main' panicked at src/lib.rs:3:5:\nboom\nnote: run with `RUST_BACKTRACE=1`\n",
            "thread 'main' panicked at src/lib.rs:3:5: boom",
        ),
        (
            "\nthread 'a b' (71) panicked at src/lib.rs:3:5:\nassertion failed: x\n",
            "thread 'a b' panicked at src/lib.rs:3:5: assertion failed: x",
        ),
        (
            "==1==WARNING: MemorySanitizer: use-of-uninitialized-value\n    #0 0x4 in main\n",
            "MemorySanitizer: use-of-uninitialized-value",
        ),
        (
            (
                "AddressSanitizer:DEADLYSIGNAL\n=====\n==7==ERROR: AddressSanitizer: SEGV on unknown address 0x000000000000\n"
                "SUMMARY: AddressSanitizer: SEGV x.c:1 in main\n==7==ABORTING\n"
            ),
            "AddressSanitizer: SEGV on unknown address 0x000000000000",
        ),
        (
            "==7==ASan runtime does not come first in initial library list; you should link it.\n",
            "ASan runtime does not come first in initial library list; you should link it.",
        ),
        (
            "#\n# Fatal error in ../src/api.cc, line 12\n# Debug check failed: x > 0.\n#\n",
            "Fatal error in ../src/api.cc, line 12: Debug check failed: x > 0.",
        ),
        (
            (
                'qt.qpa.plugin: Could not load the Qt platform plugin "xcb" in "".\nThis application failed to start because'
                " no Qt platform plugin could be initialized. Reinstalling the application may fix this problem.\n"
            ),
            (
                "This application failed to start because no Qt platform plugin could be initialized."
                " Reinstalling the application may fix this problem."
            ),
        ),
    ],
)
def test_a_message_is_put_on_one_line(text: str, told: str) -> None:
    """What spreads over lines is joined; process numbers and decorations go."""
    assert explain(text) == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "asan-heap-overflow",
            (
                "AddressSanitizer: heap-buffer-overflow on address 0x602000000018 at pc 0x555eee87d1cb"
                " bp 0x7ffed61ccf70 sp 0x7ffed61ccf68"
            ),
        ),
        ("glog", "table.cc:412] Check failed: row < rows_ (7 vs. 5)"),
        ("go-fatal", "fatal error: stack overflow"),
        ("go-panic", "panic: runtime error: index out of range [5] with length 3"),
        (
            "libstdcxx-assert",
            (
                "/usr/include/c++/12/bits/stl_vector.h:1123: std::vector<_Tp, _Alloc>::reference std::vector<_Tp, _Alloc>"
                "::operator[](size_type) [with _Tp = int; _Alloc = std::allocator<int>; reference = int&; size_type"
                " = long unsigned int]: Assertion '__n < this->size()' failed."
            ),
        ),
        ("pure-virtual", "pure virtual method called"),
        (
            "rust-assert",
            "thread 'main' panicked at p.rs:1:44: assertion `left == right` failed: counts differ (left: 2, right: 5)",
        ),
        ("rust-cannot-unwind", "thread 'main' panicked at drop.rs:2:21: boom"),
        (
            "torch-cuda",
            (
                "terminate called after throwing an instance of 'c10::Error': what(): CUDA error: device-side assert"
                " triggered"
            ),
        ),
    ],
)
def test_a_recorded_output_is_explained(name: str, told: str) -> None:
    """Of what a process wrote from its message to its end."""
    assert explain((DATA / f"{name}.txt").read_text()) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n",
        "Fatal Python error: Aborted\n\n",
        "Fatal Python error: Floating-point exception\n",
        "Fatal Python error: ",
        "checking that free(): invalid pointer is told\n",
        "free(): ok\nmalloc(): 3 calls\nfree(): \n",
        "corrupted files: 3\n",
        "*** all tests ***: passed\n*** note ***: the server terminated early\n",
        "AssertionError: Assertion `x' failed.\n",
        "Assertion failed: see below\n",
        "panic: at the disco\nfatal error: x.h: No such file\n",
        "x.c:1:10: fatal error: x.h: No such file or directory\n",
        "the thread 'main' panicked at nothing\n",
        'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nRuntimeError: CUDA error: out of memory\n',
        "ERROR: 3 tests\nERROR:root:no luck\nFATAL: maybe\n",
        "Foo 12:00:00 bar] baz\nI0101 12:00:00.000000 1 a.cc:1] fine\n",
        "we terminate called functions\n  what():  no\n",
        "SUMMARY: 3 passed\nSanitizer: hands\n",
    ],
)
def test_innocent_output_explains_nothing(text: str) -> None:
    """Words alone are no message, nor is what merely names the signal."""
    assert explain(text) == ""
    assert explain("", text) == ""


def test_the_last_message_counts() -> None:
    """An earlier one was survived, or came from a process that the test had started."""
    assert explain("free(): invalid pointer\nok\nmalloc(): corrupted top size\n") == "malloc(): corrupted top size"


def test_stderr_counts_more_than_stdout() -> None:
    """Only where it tells nothing is stdout read."""
    assert explain("free(): invalid size\n", "LLVM ERROR: x\n") == "free(): invalid size"
    assert explain("hello\n", "LLVM ERROR: x\n") == "LLVM ERROR: x"


def test_an_echo_yields_to_what_came_before_it() -> None:
    """Except where so much was written between them that they have nothing to do with each other."""
    told, echo = "free(): invalid size", "terminate called recursively"
    ordinary = "ordinary output\n" * 600

    assert explain(f"{told}\n{echo}\n") == told
    assert explain(f"{echo}\n{told}\n") == told
    assert explain(f"{told}\n{'x' * 79}\n{ordinary}{echo}\n") == echo


def test_the_assertion_stays_where_the_function_is_too_long() -> None:
    """The signature of a C++ template goes first."""
    line = f"prog: a.h:12: void f() [with T = {'X' * 300}]: Assertion `x > 0' failed."

    assert explain(line) == "prog: a.h:12: Assertion `x > 0' failed."


@given(st.text(max_size=400), st.text(max_size=40))
def test_the_message_is_one_short_printable_line(text: str, before: str) -> None:
    """Whatever stands in it: colours, control characters, halves of characters, megabytes."""
    message = explain(f"{before}\nLLVM ERROR: x{text}")

    assert len(message) <= 300
    assert message.isprintable()
    message.encode("utf-8")


def test_what_is_not_printable_is_escaped() -> None:
    """A report travels as UTF-8 and is written to a terminal."""
    assert explain("LLVM ERROR: \x1b[31mred\udc80\x00") == "LLVM ERROR: \\x1b[31mred\\udc80\\x00"
    assert explain(f"LLVM ERROR: {'x' * 400}") == f"LLVM ERROR: {'x' * 285}..."


def test_a_line_whose_start_is_out_of_sight_is_no_message() -> None:
    """Only the end of the text is read, and its first line may be a part of one."""
    tail = "LLVM ERROR: x\n"
    padding = "y" * (64 * 1024 - len(tail))

    assert explain(f"not {tail}{padding}") == ""
    assert explain(f"not\n{tail}{padding}") == tail.strip()


@pytest.mark.parametrize(
    "piece",
    [
        "ordinary output of a test\n",
        "x:1: Assertion `",
        "a:1: Assertion 'b' fail",
        "a:1: Assertion 'b' failed\n",
        "thread '' panicked at :1:1: ",
        "F0101 12:00:00 1 ] ",
        "panic: x\n",
        "*** a ***: ",
        "ERROR **: ERROR:a:1:",
        ": runtime error: :1:1",
        "Assertion failed: ( (: : ",
        "] \n",
        "\n",
    ],
)
def test_ten_megabytes_take_no_time(piece: str) -> None:
    """Also of what looks like the beginning of a message again and again."""
    text = piece * (10_000_000 // len(piece))

    begin = time.process_time()
    explain(text, text)

    assert time.process_time() - begin < 1


PROGRAMS = {
    "double_free.c": (
        "#include <stdlib.h>\nint main(void) { char *volatile p = malloc(8); free(p); free(p); return 0; }\n",
        [],
        "free(): double free detected in tcache 2",
    ),
    "assertion.c": (
        "#include <assert.h>\nint main(int count, char **v) { assert(count > 5); return 0; }\n",
        [],
        "assertion: assertion.c:2: main: Assertion `count > 5' failed.",
    ),
    "smash.c": (
        "int main(int n, char **v) { volatile char b[8]; for (int i = 0; i < 64; i++) b[i * n] = 65; return b[0]; }\n",
        ["-fstack-protector-all"],
        "*** stack smashing detected ***: terminated",
    ),
    "overflow.c": (
        "int main(int n, char **v) { int x = 2147483647; x += n; return x == 3; }\n",
        ["-fsanitize=undefined"],
        "runtime error: signed integer overflow",
    ),
    "heap.c": (
        "#include <stdlib.h>\nint main(int n, char **v) { char *p = malloc(8); return p[8 * n]; }\n",
        ["-fsanitize=address"],
        "AddressSanitizer: heap-buffer-overflow on address",
    ),
    "uncaught.cc": (
        '#include <stdexcept>\nint main() { throw std::runtime_error("bad index"); }\n',
        [],
        "terminate called after throwing an instance of 'std::runtime_error': what(): bad index",
    ),
    "virtual.cc": (
        (
            "struct A { A() { g(); } void g() { f(); } virtual void f() = 0; };\n"
            "struct B : A { void f() override {} };\nint main() { B b; }\n"
        ),
        [],
        "pure virtual method called",
    ),
    "vector.cc": (
        "#include <vector>\nint main(int n, char **v) { std::vector<int> x(3); return x[n + 10]; }\n",
        ["-D_GLIBCXX_ASSERTIONS"],
        "Assertion '__n < this->size()' failed.",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_real_death_is_explained(name: str, tmp_path: Path) -> None:
    """In the words of the C and C++ runtimes of this machine."""
    source, flags, told = PROGRAMS[name]
    compiler = shutil.which("g++" if name.endswith(".cc") else "gcc")
    if compiler is None:
        pytest.skip("no GNU compiler on this machine")
    (tmp_path / name).write_text(source)
    program = tmp_path / Path(name).stem
    built = subprocess.run(
        [compiler, "-O0", "-w", *flags, name, "-o", program.name], check=False, cwd=tmp_path, capture_output=True
    )
    if built.returncode != 0 and flags:
        pytest.skip(f"the compiler has no {' '.join(flags)}")
    assert built.returncode == 0, built.stderr

    died = subprocess.run(
        [f"./{program.name}"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LIBC_FATAL_STDERR_": "1", "LC_ALL": "C"},
    )

    assert told in explain(died.stderr), died.stderr
