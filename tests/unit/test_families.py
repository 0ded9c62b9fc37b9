"""CPU and memory of ranks are those of all their processes, each page and each second counted once."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from nb_elastic.supervisor.families import Families, FamilyUsage
from tests.support.until import until

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


class Machine:
    """A pretended /proc, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 100.0

    def process(
        self,
        pid: int,
        *,
        parent: int = 1,
        session: int = 1,
        cpu_s: float = 0,
        reaped_s: float = 0,
        mib: int = 0,
        own_mib: int | None = None,
        start: int = 7,
        state: str = "S",
    ) -> None:
        """Write one process; ``own_mib`` is what it shares with nobody, None where the kernel does not tell."""
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = [
            state,
            parent,
            pid,
            session,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            int(cpu_s * TICK),
            0,
            int(reaped_s * TICK),
            0,
            20,
            0,
            1,
            0,
            start,
            0,
        ]
        words = " ".join(map(str, [*fields, mib * MIB // PAGE, 0]))
        (folder / "stat").write_text(f"{pid} (a name) with (brackets) {words}\n")
        if own_mib is not None:
            text = f"00400000-7ff [rollup]\nRss: {mib * 1024} kB\nPss: 5 kB\nShared_Clean: 9 kB\nPrivate_Clean: 0 kB\nPrivate_Dirty: {own_mib * 1024} kB\n"
            (folder / "smaps_rollup").write_text(text)

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))

    def families(self, *pids: int) -> Families:
        return Families(pids, proc=self.root, clock=lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (tmp_path / "self").mkdir()
    made.process(1, session=1, cpu_s=50)
    made.process(10, session=10, cpu_s=3, mib=200)
    return made


def test_a_rank_s_time_before_it_was_watched_does_not_count(machine: Machine) -> None:
    families = machine.families(10)
    machine.now += 2
    machine.process(10, session=10, cpu_s=4, mib=210)
    assert families.sample() == {10: FamilyUsage(50.0, 210 * MIB)}


def test_data_loaders_count_with_what_they_have_alone(machine: Machine) -> None:
    """Else a rank of 200 MB with eight forked loaders would show 1.8 GB."""
    families = machine.families(10)
    machine.process(11, parent=10, session=10, mib=190, own_mib=5)
    machine.process(12, parent=11, session=10, mib=190, own_mib=6)
    machine.now += 1
    families.sample()
    machine.process(11, parent=10, session=10, mib=193, own_mib=5, cpu_s=0.5)  # it took three more since the walk
    machine.now += 1
    assert families.sample() == {10: FamilyUsage(50.0, (200 + 5 + 3 + 6) * MIB)}
    assert families.pids() == {10: (10, 11, 12)}


def test_a_child_of_which_the_kernel_tells_little_counts_with_what_it_has_more_than_its_rank(machine: Machine) -> None:
    families = machine.families(10)
    machine.process(11, parent=10, session=10, mib=260)
    machine.now += 1
    assert families.sample()[10].memory_bytes == 260 * MIB


def test_the_time_of_a_child_that_ends_is_counted_once(machine: Machine) -> None:
    families = machine.families(10)
    machine.process(11, parent=10, session=10, cpu_s=1)
    machine.now += 1
    first = families.sample()[10].cpu_percent
    machine.process(11, parent=10, session=10, cpu_s=1.5, state="Z")
    machine.now += 1
    dead = families.sample()[10].cpu_percent
    machine.end(11)
    machine.process(10, session=10, cpu_s=3, reaped_s=1.5, mib=200)
    machine.now += 1
    assert (first, dead, families.sample()[10].cpu_percent) == (100.0, 50.0, 0.0)


def test_a_child_that_nobody_waited_for_does_not_make_time_run_backwards(machine: Machine) -> None:
    families = machine.families(10)
    machine.process(11, parent=10, session=10, cpu_s=1)
    machine.now += 1
    families.sample()
    machine.end(11)
    machine.now += 1
    assert families.sample()[10].cpu_percent == 0.0


def test_strangers_and_reused_pids_are_not_counted(machine: Machine) -> None:
    families = machine.families(10)
    machine.process(11, parent=10, session=10, mib=250)
    machine.process(20, session=20, cpu_s=9, mib=999)
    machine.now += 1
    families.sample()
    machine.process(11, session=1, mib=900, cpu_s=90, start=8)
    machine.now += 1
    assert families.sample() == {10: FamilyUsage(0.0, 200 * MIB)}


def test_a_child_with_a_session_of_its_own_is_still_the_rank_s(machine: Machine) -> None:
    families = machine.families(10)
    machine.process(11, parent=10, session=11, cpu_s=0.25)
    machine.now += 1
    assert families.sample()[10].cpu_percent == 25.0


def test_a_rank_that_ended_is_left_out_with_its_children(machine: Machine) -> None:
    machine.process(30, session=30, mib=70)
    families = machine.families(10, 30, 99)
    machine.process(11, parent=10, session=10)
    machine.now += 1
    families.sample()
    machine.end(10)
    machine.now += 1
    assert families.sample() == {30: FamilyUsage(0.0, 70 * MIB)}
    assert families.pids() == {30: (30,)}


def test_a_garbled_stat_is_a_process_that_is_gone(machine: Machine) -> None:
    families = machine.families(10)
    (machine.root / "10" / "stat").write_bytes(b"\xff\xfe 10 (")
    machine.now += 1
    assert families.sample() == {}


def test_real_processes_are_read() -> None:
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(into, b"x" * 1)
            while True:
                pass
        while True:
            signal.pause()
    try:
        os.read(out, 1)
        families = Families([pid])
        found = until(lambda: (u := families.sample().get(pid)) and u.cpu_percent > 5 and u)
        assert found.memory_bytes > MIB
        assert len(families.pids()[pid]) == 2
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        os.close(into)


def test_every_process_below_the_supervisor_is_known_also_what_no_rank_owns(machine: Machine) -> None:
    """Else ``reap`` could not prove what a daemon of a rank is."""
    machine.process(5, session=5)  # the supervisor
    machine.process(6, parent=5, session=6)  # its forkserver
    families = Families([10], adopters={5, 6}, proc=machine.root, clock=lambda: machine.now)
    machine.process(11, parent=10, session=10)
    machine.process(12, parent=6, session=12)  # a daemon that lost its parents, and what it starts
    machine.process(13, parent=12, session=12)
    machine.process(99, parent=1, session=99)
    machine.now += 1
    assert set(families.sample()) == {10}
    assert {one.pid for one in families.known()} == {6, 10, 11, 12, 13}
    machine.process(12, parent=1, session=12, start=8)  # somebody else has the pid now
    machine.end(13)
    machine.now += 1
    families.sample()
    assert {one.pid for one in families.known()} == {6, 10, 11}
