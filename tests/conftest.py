"""What every test gets: a home of its own for runs, a clean environment, and a check that nothing is left behind.

Runs in: the tests.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.until import until

LEFTOVERS_S = 5.0
"""How long what a test started may take to go: the contract's promise for orphans."""

RANK_VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _session_home() -> Iterator[None]:
    """Keep fixtures that outlive a test (a shared kernel, say) out of the user's own home of runs."""
    # A shell's background job ignores the one, nohup the other; what tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.MonkeyPatch.context() as patch, _short_folder() as folder:
        for name in list(os.environ):
            if name.startswith(("NB_ELASTIC_", "TORCHELASTIC_")) or name in RANK_VARIABLES:
                patch.delenv(name)
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm-256color")  # a terminal of one kind, whatever started the tests
        patch.setenv("NB_ELASTIC_HOME", str(folder))
        yield


@pytest.fixture(autouse=True)
def elastic_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Home of this test's runs: fresh, and short enough for Unix sockets inside."""
    with _short_folder() as folder:
        monkeypatch.setenv("NB_ELASTIC_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _no_leaks(elastic_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process, or a thread of ours, behind."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv(leaks.MARK, mark)
    starts_before, had_children, threads_before = leaks.starts(), leaks.has_children(), leaks.threads()
    processes_before = leaks.processes(mark) if had_children else set()
    yield

    def is_clean() -> bool:
        if leaks.starts() == starts_before and not (had_children or leaks.has_children()):
            return not leaks.threads() - threads_before
        return not (leaks.processes(mark) - processes_before or leaks.threads() - threads_before)

    try:
        until(is_clean, LEFTOVERS_S)
    except AssertionError:
        left = leaks.processes(mark) - processes_before
        told = [leaks.describe(p) for p in sorted(left, key=lambda p: p.pid)]
        told += [f"thread {t.name}" for t in leaks.threads() - threads_before]
        leaks.end(left)
        if told:
            pytest.fail("left behind:\n  " + "\n  ".join(told), pytrace=False)


class _short_folder:  # noqa: N801  (a context manager, used like a function)
    """A folder directly under the system's temporary one, removed afterwards."""

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="nbe-"))
        return self.path

    def __exit__(self, *_exc: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where the driver shows none; torch is not asked, since that would start CUDA here."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return
    skip = pytest.mark.skip(reason="no NVIDIA GPU on this machine")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
