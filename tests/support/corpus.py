"""The failing programs and their known answers: what kind of failure, of which rank, and a word that the report must have.

Runs in: the tests and benchmarks.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nb_elastic.model import FailureCategory as Kind


@dataclass(frozen=True, kw_only=True)
class Case:
    """One failing program.

    Attributes:
        target: as ``supervise.entry`` takes it; ``cell:BODY`` is a cell that is shipped with what it needs.
        kind: what the verdict must be; None where nothing fails.
        roots: ranks that may be named as the first; empty where no rank's failure is the cause.
        word: stands in the report.
        place: where it must run, of ``corpus_places``.
        options: of the launch; ``{port}`` in a text is a port that nobody listens at.
    """

    name: str
    target: str
    kind: Kind | None
    roots: tuple[int, ...]
    word: str
    args: tuple[str, ...] = ()
    nproc: int = 1
    place: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Its family: the file that it is in, or what it is run as."""
        return self.name.split(".")[0].split(":")[0].split()[0]

    @property
    def why_not(self) -> str:
        """Why it can't run here, or ""."""
        if self.target.endswith((":divides_by_zero", ":runs_a_wrong_instruction", ":overflows_the_stack")):
            return "" if platform.machine() == "x86_64" else "machine code for x86-64"
        if self.target.endswith(":raises_a_group") and sys.version_info < (3, 11):
            return "Python 3.11 has groups"
        return "root makes such places" if self.place and os.geteuid() != 0 else ""


def _of(module: str, rows: list[tuple[Any, ...]]) -> list[Case]:
    """Rows of (function, kind, roots, word, nproc, more)."""
    cases = []
    for function, kind, roots, word, nproc, *more in rows:
        extra: dict[str, Any] = more[0] if more else {}
        name = f"{module}.{function}" + "".join(f" {a}" for a in extra.get("args", ()))
        target = f"tests.programs.failing.{module}:{function}"
        cases.append(Case(name=name, target=target, kind=kind, roots=roots, word=word, nproc=nproc, **extra))
    return cases


USER, HOST, GPU, KILLED, NATIVE = Kind.USER_ERROR, Kind.HOST_MEMORY, Kind.GPU_MEMORY, Kind.KILLED, Kind.NATIVE_CRASH
LOST, MEETING, IMPORT, TIME = Kind.LOST_PEER, Kind.RENDEZVOUS, Kind.IMPORT, Kind.TIMEOUT
ANY = (0, 1, 2, 3)

CASES = [
    *_of("user_errors", [
        ("one_rank_raises_while_others_wait", USER, (2,), "bad batch", 3),
        ("asserts", USER, (0,), "expected 4 rows, got 3", 1),
        ("key_missing_in_one_ranks_data", USER, (1,), "KeyError", 2),
        ("shapes_do_not_fit", USER, (0,), "cannot be multiplied", 1),
        ("raises_in_a_pool_thread", USER, (0,), "'two'", 1),
        ("thread_dies_and_main_gives_up", USER, (0,), "exception in thread loader", 1),
        ("raises_in_a_dataloader_worker", USER, (0,), "row 5 is not in the file", 1),
        ("raises_in_backward", USER, (0,), "no gradient for this", 1),
        ("exits_with_3", USER, (0,), "SystemExit", 1),
        ("exits_at_once_with_7", USER, (0,), "exit code 7", 1),
        ("exits_with_text", USER, (0,), "no data found in /data/train", 1),
        ("raises_a_group", USER, (0,), "two at once", 1),
        ("raises_what_cannot_be_said", USER, (0,), "Unsayable", 1),
        ("recurses", USER, (0,), "RecursionError", 1),
        ("forgets_to_init", USER, (0,), "init_process_group", 1),
        ("file_is_missing", USER, (0,), "/nowhere/shard-0.bin", 1),
        ("child_program_fails", USER, (0,), "CalledProcessError", 1),
        ("reads_a_closed_socket_of_its_own", USER, (0,), "BrokenPipeError", 1),
        ("raises_its_own_interrupt", USER, (0,), "KeyboardInterrupt", 1),
        ("fails_while_it_handles_a_missing_import", USER, (0,), "JSONDecodeError", 1),
        ("evaluates_a_bad_expression", USER, (0,), "SyntaxError", 1),
        ("hides_its_traceback_and_leaves", USER, (1,), "KeyError: 'lr'", 2),
        ("raises_in_another_session_after_a_fork", USER, (0,), "the helper ended with 9", 1),
        ("times_out_by_its_own_clock", USER, (0,), "TimeoutError", 1),
        ("returns_what_cannot_be_pickled", None, (), "", 1),
        ("exits_with_0", None, (), "", 1),
    ]),
    Case(name="cell.raises", target="cell:x = 3\ndef divide(a, b):\n    return a / b\ndivide(x, 0)", kind=USER, roots=(0,), word="Cell In[2]"),
    Case(name="cell.what it ships can't be loaded", target="cell:use(thing)", kind=IMPORT, roots=(0,), word="made on another machine"),
    *_of("loading", [
        ("module_is_missing", IMPORT, (0,), "no_such_package_of_mine", 1),
        ("name_is_missing_in_a_module", IMPORT, (0,), "no_such_name", 1),
        ("module_has_wrong_syntax", IMPORT, (0,), "syntax_is_wrong.py", 1),
        ("import_error_is_wrapped", IMPORT, (0,), "pip install", 1),
        ("class_is_missing_on_load", IMPORT, (0,), "Thing", 1),
        ("file_is_no_pickle", IMPORT, (0,), "UnpicklingError", 1),
        ("cannot_pickle_a_lock", IMPORT, (0,), "lock", 1),
        ("there_is_no_such_function", IMPORT, (0,), "there_is_no_such_function", 1),
    ]),
    Case(name="script with wrong syntax", target="syntax_is_wrong.py", kind=IMPORT, roots=(0,), word="syntax_is_wrong.py"),
    Case(name="script that is not there", target="failing/not_there.py", kind=IMPORT, roots=(0,), word="not_there.py"),
    Case(name="program: a module is missing", target="!python", args=("-c", "import no_such_package_of_mine"), kind=IMPORT, roots=(0,), word="no_such_package_of_mine", options={"no_python": True}),
    Case(name="program: an exception", target="!python", args=("-c", "raise ValueError('bad batch')"), kind=USER, roots=(0,), word="bad batch", options={"no_python": True}),
    Case(name="program: a shell whose child is killed", target="!sh", args=("-c", "python -S -c 'import os; os.kill(os.getpid(), 9)'; exit $?"), kind=KILLED, roots=(0,), word="SIGKILL", options={"no_python": True}),
    *_of("memory", [
        ("fills_the_container", HOST, (1,), "OOM killer", 2, {"place": "memory_limit"}),
        ("fills_its_own_group", HOST, (0,), "OOM killer", 2, {"place": "memory_group"}),
        ("dataloader_worker_fills_the_container", HOST, (1,), "OOM kill", 2, {"place": "memory_limit"}),
        ("python_gets_no_memory", HOST, (0,), "MemoryError", 1),
        ("numpy_gets_no_memory", HOST, (0,), "Unable to allocate", 1),
        ("torch_gets_no_memory", HOST, (0,), "DefaultCPUAllocator", 1),
        ("cannot_fork", HOST, (0,), "Cannot allocate memory", 1),
        ("memory_error_is_wrapped", HOST, (0,), "could not build the vocabulary", 1),
        ("cpp_gets_no_memory", HOST, (0,), "bad_alloc", 1),
        ("shared_memory_is_full", HOST, (0,), "/dev/shm", 1, {"place": "small_shm"}),
        ("cuda_out_of_memory", GPU, (0,), "Tried to allocate 20.00 GiB", 1),
        ("cuda_out_of_memory_in_a_kernel", GPU, (0,), "CUDA error: out of memory", 1),
        ("cublas_gets_no_memory", GPU, (0,), "CUBLAS_STATUS_ALLOC_FAILED", 1),
        ("cuda_out_of_memory_is_wrapped", GPU, (0,), "step 17 failed", 1),
        ("nccl_gets_no_memory", GPU, (0,), "out of memory", 1),
    ]),
    *_of("killed", [
        ("by", KILLED, (1,), "no OOM kill was counted", 2, {"args": ("SIGKILL", "1")}),
        ("by", KILLED, (0,), "SIGTERM", 1, {"args": ("SIGTERM", "0")}),
        ("by", KILLED, (0,), "SIGHUP", 1, {"args": ("SIGHUP", "0")}),
        ("by", KILLED, (0,), "SIGUSR1", 1, {"args": ("SIGUSR1", "0")}),
        ("while_others_wait_in_a_collective", KILLED, (1,), "SIGKILL", 3),
        ("others_wrap_what_they_saw", KILLED, (1,), "SIGKILL", 2),
        ("others_exit_when_they_saw_it", KILLED, (1,), "SIGKILL", 2),
        ("dataloader_worker", KILLED, (0,), "SIGKILL", 1),
        ("interrupted_by_somebody", KILLED, (0,), "SIGINT", 1),
        ("used_up_its_cpu_time", KILLED, (0,), "SIGXCPU", 1),
    ]),
    *_of("native", [
        ("reads_address_0", NATIVE, (0,), "SIGSEGV", 1),
        ("only_in_rank", NATIVE, (1,), "SIGSEGV", 2),
        ("aborts", NATIVE, (0,), "SIGABRT", 1),
        ("divides_by_zero", NATIVE, (0,), "SIGFPE", 1),
        ("runs_a_wrong_instruction", NATIVE, (0,), "SIGILL", 1),
        ("overflows_the_stack", NATIVE, (0,), "SIGSEGV", 1),
        ("reads_a_file_that_shrank", NATIVE, (0,), "SIGBUS", 1),
        ("frees_twice", NATIVE, (0,), "double free", 1),
        ("throws_in_cpp", NATIVE, (0,), "length_error", 1),
        ("in_a_dataloader_worker", NATIVE, (0,), "DataLoader worker", 1),
        ("in_a_thread", NATIVE, (0,), "SIGSEGV", 1),
        ("on_the_gpu", NATIVE, (0,), "illegal memory access", 1),
        ("with_handlers_off", NATIVE, (0,), "SIGSEGV", 1),
    ]),
    *_of("peers", [
        ("one_returns_early", LOST, (0,), "Rank 1 had finished", 2),
        ("one_leaves_with_0", LOST, (0,), "Rank 1 had finished", 2),
        ("one_leaves_with_9", USER, (1,), "exit code 9", 2),
        ("one_leaves_the_group_and_stays", LOST, (0,), "other side went away", 2),
        ("one_raises_in_send_and_receive", USER, (1,), "no gradient to send", 2),
        ("one_crashes", NATIVE, (1,), "SIGSEGV", 2),
        ("several_see_one_go", KILLED, (2,), "SIGKILL", 3),
        ("one_is_slow", TIME, (0,), "time-out", 2),
        ("barrier_times_out", TIME, (0,), "time-out", 2),
        ("receive_times_out", TIME, (1,), "time-out", 2),
        ("key_never_comes", TIME, (0,), "time-out", 2),
        ("watchdog_of_nccl_ends_one", TIME, (0,), "time-out", 2),
        ("store_goes_away", MEETING, (0,), "store", 2),
        ("port_is_taken", MEETING, (0,), "EADDRINUSE", 1),
        ("nobody_listens", MEETING, (0,), "could not form a group", 1),
        ("waits_for_more_ranks_than_there_are", MEETING, (0,), "1/3 clients joined", 1),
        ("master_address_is_gone", MEETING, (0,), "MASTER_ADDR", 1),
        ("loops_for_ever", TIME, (), "--timeout", 2, {"options": {"timeout": 3.0}}),
    ]),
    *(
        Case(name=name, target="tests.programs.failing.peers:loops_for_ever", kind=MEETING, roots=(), word=word, options=options)
        for name, word, options in (
            ("nodes: the second never comes", "fewer than 2 nodes", {"nnodes": "2", "rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:{port}", "rdzv_conf": {"join_timeout": "2"}}),
            ("nodes: the first is not there", "127.0.0.1:", {"nnodes": "2", "node_rank": 1, "rdzv_backend": "static", "rdzv_endpoint": "127.0.0.1:{port}", "rdzv_conf": {"timeout": "2", "join_timeout": "2"}}),
            ("nodes: an endpoint of another machine", "192.0.2.1", {"nnodes": "2", "rdzv_backend": "c10d", "rdzv_endpoint": "192.0.2.1:29400", "rdzv_conf": {"join_timeout": "2", "is_host": "0"}}),
        )
    ),
    *_of("several", [
        ("two_raise", USER, (1,), "rank 1", 2, {"args": ("20",)}),
        ("one_is_killed_then_one_raises", KILLED, (1,), "SIGKILL", 2),
        ("one_exits_then_one_crashes", USER, (1,), "exit code 12", 2),
        ("last_of_four_raises", USER, (3,), "only in the last rank", 4),
        ("another_rank_in_each_attempt", USER, (1,), "attempt 1", 2, {"options": {"max_restarts": 1}}),
        ("crashes_in_the_second_attempt", KILLED, (1,), "SIGKILL", 2, {"options": {"max_restarts": 1}}),
        ("raises_while_it_is_being_ended", USER, (1,), "the cause", 2),
    ]),
    *_of("resources", [
        ("disk_is_full", USER, ANY, "No space left on device", 1, {"place": "small_disk"}),
        ("too_many_open_files", USER, (0,), "Too many open files", 1),
        ("file_grows_too_large", USER, (0,), "", 1),
    ]),
]  # fmt: skip
