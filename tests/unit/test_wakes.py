"""Waiting for files to grow: a wake that is lost is a line seen late; a descriptor that is lost is a kernel that dies one day.

The waits here are a minute long and end at once: only a lost wake reaches the bound.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nb_elastic import wakes
from nb_elastic.wakes import Wakes
from tests.support.until import until

ROOT = Path(__file__).parents[2]
LONG_S = 60.0
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify is Linux's")


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


def append(path: Path, data: bytes = b"x\n") -> None:
    """Write as a rank does."""
    with path.open("ab", buffering=0) as f:
        f.write(data)


def ends_early(one: Wakes, act: Callable[[], object]) -> bool:
    """True if what another thread does ends a long wait."""
    thread = threading.Thread(target=act)
    began = time.monotonic()
    thread.start()
    is_woken = one.wait(LONG_S)
    thread.join()
    return is_woken and time.monotonic() - began < LONG_S / 2


@pytest.fixture
def one():
    made = Wakes()
    yield made
    made.close()


@linux
def test_what_a_rank_writes_ends_the_wait(one: Wakes, tmp_path: Path):
    log = tmp_path / "stdout.log"
    append(log)
    for _ in range(3):
        one.watch(log)
        assert ends_early(one, lambda: append(log))
    assert one.is_sure


@linux
def test_what_was_written_between_the_watch_and_the_wait_is_not_missed(one: Wakes, tmp_path: Path):
    log = tmp_path / "stdout.log"
    append(log)
    one.watch(log)
    append(log)
    assert ends_early(one, lambda: None)


@linux
def test_a_flood_is_one_wake_until_somebody_watches_again(one: Wakes, tmp_path: Path):
    log = tmp_path / "stdout.log"
    append(log)
    one.watch(log)
    for _ in range(1_000):
        append(log)
    assert [one.wait(0), one.wait(0)] == [True, False]
    one.watch(log)
    assert not one.wait(0)
    append(log)
    assert one.wait(0)


@linux
def test_watching_often_wakes_once_and_a_hundred_thousand_times_takes_no_room(one: Wakes, tmp_path: Path):
    log = tmp_path / "stdout.log"
    append(log)
    for _ in range(100_000):
        one.watch(log)
    append(log)
    assert [one.wait(0), one.wait(0)] == [True, False]
    assert one.is_sure


@linux
def test_a_log_that_a_rank_has_yet_to_make_ends_the_wait(one: Wakes, tmp_path: Path):
    log = tmp_path / "stdout.log"
    one.watch(log)
    assert ends_early(one, lambda: append(log))
    one.watch(tmp_path / "no folder" / "stdout.log")
    assert not one.wait(0)
    assert one.is_sure


@linux
def test_a_log_that_a_rank_replaced_by_a_link_or_a_pipe_does_no_harm(one: Wakes, tmp_path: Path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        one.watch(tmp_path / name)
    assert not one.wait(0)


def test_another_thread_ends_the_wait_or_the_next_one(one: Wakes):
    assert ends_early(one, one.wake)
    one.wake()
    assert [one.wait(0), one.wait(0)] == [True, False]


def test_a_million_wakes_that_nobody_waits_for_block_nobody(one: Wakes):
    for _ in range(1_000_000):
        one.wake()
    assert one.wait(0)
    until(lambda: not one.wait(0))


def test_closing_ends_every_wait_and_closes_every_descriptor():
    before = descriptors()
    one = Wakes()
    ended: list[bool] = []
    threads = [threading.Thread(target=lambda: ended.append(one.wait(LONG_S))) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: one._waiting == 4)
    one.close()
    for thread in threads:
        thread.join(LONG_S / 2)
    assert ended == [True] * 4
    until(lambda: descriptors() == before)  # the last one who waited has them closed in the background
    one.close()
    one.wake()
    one.watch(Path("/tmp"))
    assert one.wait(LONG_S)


def test_an_interrupt_while_it_closes_closes_no_descriptor_twice(monkeypatch: pytest.MonkeyPatch):
    """The second time it may be the kernel's own socket."""
    made, closed = Wakes(), []
    close = os.close

    def interrupted(fd: int) -> None:
        closed.append(fd)
        close(fd)
        if len(closed) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(wakes.os, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.close()
    made.close()
    del made
    gc.collect()
    assert len(closed) == len(set(closed))


def test_one_that_was_forgotten_closes_its_descriptors():
    before = descriptors()
    for _ in range(500):
        Wakes().wake()
    gc.collect()
    assert descriptors() == before


def test_the_stop_button_ends_the_wait(one: Wakes):
    began = time.monotonic()
    main = threading.get_ident()

    def press() -> None:
        until(lambda: one._waiting)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        one.wait(LONG_S)
    thread.join()
    assert time.monotonic() - began < LONG_S / 2
    assert one._waiting == 0


def test_without_inotify_it_says_so_and_waits_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(wakes, "_open_inotify", lambda: (None, -1))
    one = Wakes()
    one.watch(tmp_path)
    assert [one.is_sure, one.wait(0), ends_early(one, one.wake)] == [False, False, True]
    one.close()


@linux
@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_at_the_users_limit_it_says_so_and_waits_all_the_same(limit: str, tmp_path: Path):
    """A user namespace of its own, in which nothing may be watched: JupyterLab and editors do use the limits up."""
    code = (
        "import pathlib; from nb_elastic.wakes import Wakes; one = Wakes(); one.watch(pathlib.Path('/tmp'));"
        "one.wake(); print(one.is_sure, one.wait(0), one.wait(0))"
    )
    script = f'echo 0 > /proc/sys/user/{limit} || exit 77; exec "$0" -c "$1"'
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "sh", "-c", script, sys.executable, code],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("namespaces can't be made here")
    assert (done.stdout, done.stderr) == ("False True False\n", "")
