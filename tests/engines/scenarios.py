"""What a run on several nodes must do, whatever engine places them: real launches, real nodes, real faults.

Runs in: the engines' tests. A test module has ``class TestX(Scenarios)`` with a class's fixture ``place`` (see ``opened.Place``),
which also sets the environment in which the engine is found.

A user would lose: results, lines of logs, the reason why a run failed, machines that go on computing, and runs that could
have gone on without a machine or with one more.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nb_elastic
from nb_elastic.engines import driven
from nb_elastic.events import Event
from nb_elastic.lifeline import ProcessId
from nb_elastic.model import RunState
from nb_elastic.run import Run
from nb_elastic.rundir import JournalReader, RunDir
from tests.engines.opened import Place
from tests.programs import on_many_nodes as programs
from tests.support import detached
from tests.support.cluster_hosts import seen
from tests.support.kernel import Cell, Kernel
from tests.support.until import until

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0
"""Only a hang takes so long."""
LONG_BYTES = 50 << 20


def engine_of(place: Place) -> str:
    """What ``--engine`` says."""
    return f"{place.name}={place.settings}" if place.settings else place.name


def told(run: Run, kind: str) -> list[Event]:
    """The events of a kind, as the journal has them."""
    return [e for e in JournalReader(RunDir(run.dir).journal).read() if e.kind == kind]


def node(run: Run, index: int) -> ProcessId:
    """The node program that has this share of the run."""
    found = _node(next(e for e in told(run, "node_joined") if e.node == index))
    assert found is not None
    return found


def logs_say(run: Run, words: str, *, ranks: int) -> bool:
    """True if so many ranks of the last round have printed these words."""
    try:
        return sum(words in run.logs(w.rank) for w in run.snapshot.workers) >= ranks
    except nb_elastic.ElasticError:  # another round has begun in between, and has no ranks yet
        return False


@contextlib.contextmanager
def launched(fn: Any, *args: Any, place: Place, **options: Any) -> Iterator[Run]:
    """A run that nobody waits for; at the end it is stopped, and everything is gone."""
    run = nb_elastic.launch(fn, *args, engine=engine_of(place), detach=True, **options)
    try:
        yield run
    finally:
        run.stop(0.0)
        run.wait(WAIT_S)
        driver = run.snapshot.supervisor_pid
        until(lambda: ProcessId.of(driver) is None or driver == 0, WAIT_S, "the driver's end")
        driven.drivers.close()


class _Warm:
    """A kernel whose nodes are there already."""

    def __init__(self, kernel: Kernel, place: Place) -> None:
        self.kernel = kernel
        self.line = f"--nnodes 2 --nproc 2 --engine {engine_of(place)} --out r"

    def cell(self, body: str, options: str = "") -> Cell:
        """Run a cell on all ranks; it must end well."""
        return self.kernel.ok(f"%%elastic_launch {self.line} {options}\n{body}")

    def call(self, text: str, options: str = "") -> str:
        """Run one of the programs on all ranks; the results, as the notebook prints them."""
        self.cell(f"from tests.programs import on_many_nodes as programs\nprograms.{text}", options)
        return self.value("r.results")

    def value(self, expression: str) -> str:
        """What the notebook prints for an expression."""
        return self.kernel.ok(f"print({expression})").stdout.rstrip("\n")

    @property
    def run(self) -> Run:
        """The last run."""
        return nb_elastic.attach(self.value("r.id"))


class Scenarios:
    """Runs over one engine."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls) -> Any:
        """Where to try the engine; says ``Place`` in a subclass."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def warm(cls, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Warm]:
        """A kernel that has launched on the engine before."""
        home = tmp_path_factory.mktemp("home")
        with Kernel(cwd=ROOT, env={"NB_ELASTIC_HOME": str(home)}) as kernel:
            kernel.ok("%load_ext nb_elastic\nimport nb_elastic")
            found = _Warm(kernel, place)
            found.cell("1")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("NB_ELASTIC_HOME", str(home))
                yield found

    @pytest.fixture(autouse=True)
    def _same_home(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, elastic_home: Path) -> None:
        """Read the runs of the shared kernel where a test uses it."""
        del elastic_home  # it is made before, and would win
        if "warm" in request.fixturenames:
            warm = request.getfixturevalue("warm")
            monkeypatch.setenv("NB_ELASTIC_HOME", warm.value("__import__('os').environ['NB_ELASTIC_HOME']"))

    # -- with nodes that are there already ---------------------------------------------------

    @pytest.mark.smoke
    def test_ranks_of_two_nodes_reduce_together_and_their_results_come_back(self, warm: _Warm):
        assert warm.call("add_up()") == "{0: 10.0, 1: 10.0, 2: 10.0, 3: 10.0}"
        nodes = {w.node for w in warm.run.snapshot.workers}
        assert nodes == {0, 1}
        assert [warm.run.logs(rank) for rank in range(4)] == ["added up\n"] * 4
        assert sorted(p.name for p in warm.run.dir.glob("node_*")) == ["node_0", "node_1"]

    def test_the_next_run_has_the_same_nodes(self, warm: _Warm):
        pids = []
        for _ in range(2):
            warm.call("where()")
            pids.append(sorted(e["pid"] for e in told(warm.run, "node_joined")))
        assert pids[0] == pids[1]
        assert warm.run.snapshot.supervisor_pid != 0

    def test_a_failing_rank_of_the_second_node_is_the_root_cause_and_ends_all(self, warm: _Warm):
        failed = warm.kernel.run(
            f"%%elastic_launch {warm.line}\nfrom tests.programs import on_many_nodes as programs\nprograms.fail_on_the_second_node()"
        )
        assert failed.reply["ename"] == "WorkerFailedError"
        run = nb_elastic.attach()
        root = run.root_cause
        assert root is not None
        assert (root.error_type, root.message) == ("ValueError", "bad batch")
        told_first = rf"rank {root.rank} \(node {root.node}, [^)]+\) failed first \(ValueError: bad batch\)"
        assert re.search(told_first, failed.text)
        assert "fail_on_the_second_node" in failed.text  # its own traceback
        assert len(run.failures) == 1
        assert {w.state.value for w in run.snapshot.workers if w.rank != root.rank} <= {"ended", "stopped"}
        ended = told(run, "run_finished")[-1].time_ns - told(run, "worker_failed")[0].time_ns
        assert ended < 30e9  # the others had ten minutes to go

    def test_a_rank_held_on_the_second_node_is_looked_at_and_ended(self, warm: _Warm):
        body = "from tests.programs import on_many_nodes as programs\nprograms.fail_on_the_second_node()"
        held = warm.kernel.run(f"%%elastic_launch {warm.line} --hold --render plain\n{body}")
        assert "The group is held: `%elastic debug` opens pdb on rank " in held.text
        run = nb_elastic.attach()
        (worker,) = run.snapshot.held
        assert (run.snapshot.state, worker.held) == (RunState.RUNNING, "failure")
        assert warm.kernel.ok("%elastic eval (where()[1], 'x' * 3)").stdout == "(1, 'xxx')\n"
        cell = warm.kernel.start("%elastic debug", can_answer=True)
        warm.kernel.dialogue(cell, "p where()[0] + 100", "q")
        assert f"\n{100 + worker.rank}\n" in warm.kernel.wait(cell).text
        assert run.wait(WAIT_S) is RunState.FAILED
        assert (run.root_cause.rank, run.root_cause.message) == (worker.rank, "bad batch")
        assert not (run.dir / "debug.sock").exists()
        warm.call("where()")  # and the nodes are fit for more
        assert {e["pid"] for e in told(warm.run, "node_joined")} == {e["pid"] for e in told(run, "node_joined")}

    def test_a_group_out_of_step_is_started_again(self, warm: _Warm):
        assert warm.call("fail_once_out_of_step()", "--max-restarts 1") == "{0: 1, 1: 1, 2: 1, 3: 1}"
        assert [r.cause for r in warm.run.snapshot.rounds] == ["failure", "success"]

    def test_an_interrupt_lets_all_ranks_save(self, warm: _Warm):
        cell = warm.kernel.start(
            f"%%elastic_launch {warm.line}\nfrom tests.programs import on_many_nodes as programs\nprograms.save_when_stopped()"
        )
        until(lambda: nb_elastic.attach().snapshot.state is RunState.RUNNING, WAIT_S)
        run = nb_elastic.attach()
        until(lambda: logs_say(run, "waits", ranks=4), WAIT_S, "four ranks that wait")
        warm.kernel.interrupt()
        assert warm.kernel.wait(cell).reply["ename"] == "RunStoppedError"
        assert nb_elastic.attach(run.id).results == dict.fromkeys(range(4), "saved")
        assert warm.call("add_up()") == "{0: 10.0, 1: 10.0, 2: 10.0, 3: 10.0}"  # and the nodes are fit for more

    def test_large_values_reach_all_ranks_whole(self, warm: _Warm):
        warm.kernel.ok(
            "import os, torch\nfrom tests.programs.on_many_nodes import digest_of\n"
            "data = os.urandom(6 << 20)\ntensor = torch.rand(2 << 20)"
        )
        warm.cell("(digest_of(data), digest_of(tensor))")
        wanted = warm.value("(digest_of(data), digest_of(tensor))")
        assert warm.value("set(r.results.values())") == f"{{{wanted}}}"
        warm.cell("data")
        assert warm.value("all(v == data for v in r.results.values()), len(r.results)") == "True 4"

    def test_no_line_of_a_burst_is_lost(self, warm: _Warm):
        warm.call("print_much()")
        for rank in range(4):
            lines = warm.run.logs(rank).splitlines()
            assert lines == [
                f"rank {rank} says line {n} of {programs.LINES}, which is a sentence of about seventy bytes"
                for n in range(programs.LINES)
            ]

    @pytest.mark.slow
    def test_a_line_of_fifty_megabytes_arrives_whole(self, warm: _Warm):
        warm.call(f"print_a_long_line({LONG_BYTES})", "--render none")
        for rank in range(4):
            text = warm.run.logs(rank)
            assert text == f"before\n{chr(ord('a') + rank) * LONG_BYTES}\nafter\n"

    def test_what_ranks_report_and_bind_comes_back(self, warm: _Warm):
        warm.cell("nb_elastic.report(step=1, total=2, loss=0.5)\npulled_value = 41", "--pull pulled_value")
        assert warm.value("pulled_value, sorted(row['rank'] for row in r.metrics)") == "41 [0, 1, 2, 3]"

    def test_variables_that_say_how_to_compute_travel_and_others_stay(self, warm: _Warm):
        warm.kernel.ok("import os\nos.environ['NCCL_DEBUG'] = 'WARN'\nos.environ['MY_SECRET'] = 'x'")
        warm.cell("import os\n[os.environ.get(n) for n in ('NCCL_DEBUG', 'MY_SECRET', 'A')]", "--env A=b")
        assert warm.value("r.results[3]") == "['WARN', None, 'b']"

    # -- with nodes of their own -------------------------------------------------------------

    @pytest.mark.slow
    def test_a_detached_run_is_found_again_with_its_results(self, place: Place, tmp_path: Path):
        go = tmp_path / "go"
        with launched(programs.tick_until, str(go), place=place, nnodes="2", nproc_per_node=1) as run:
            again = nb_elastic.attach(run.id)
            until(lambda: logs_say(again, "world 2", ranks=2), WAIT_S, "a world of two")
            go.touch()
            assert again.wait(WAIT_S) is RunState.SUCCEEDED
            assert again.results == {0: 2, 1: 2}

    def test_the_odd_rank_out_is_found_across_nodes(self, place: Place, tmp_path: Path):
        del tmp_path
        with launched(programs.leave_one_out, place=place, nnodes=2, nproc_per_node=2, hang_after=2) as run:
            until(lambda: logs_say(run, "ready", ranks=4), WAIT_S, "all ranks in a group")
            until(lambda: [g.ranks for g in run.stacks().groups] == [(3,), (0, 1, 2)], WAIT_S, "the odd one, first")
            hang = until(lambda: (now := run.snapshot.hang) and now.cause == "hang" and now, WAIT_S, "the hang")
            for report in (run.stacks(), hang):
                assert report.headline.startswith("Ranks 0-2 wait in all_reduce, on_many_nodes.py, line ")
                assert "; rank 3 sleeps, line " in report.headline
                assert [g.is_odd for g in report.groups] == [True, False]
                assert report.groups[0].frames[-1].text == "time.sleep(600)"
            assert [g.ranks for g in run.stacks(rank=3).groups] == [(3,)]
            assert list((run.dir / "asks").iterdir()) == []

    def test_a_crashed_node_is_lost_and_the_others_go_on(self, place: Place, tmp_path: Path):
        go = tmp_path / "go"
        options = {"nnodes": "1:2", "nproc_per_node": 1, "max_restarts": 3}
        two = self.elastic(place, tmp_path)
        self.add_machine(two)
        with launched(programs.tick_until, str(go), place=two, **options) as run:
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            self.remove_machine(two)
            self.crash(run, 1)
            until(lambda: logs_say(run, "world 1", ranks=1), WAIT_S, "a world of one")
            until(lambda: [e.node for e in told(run, "node_lost")] == [1], WAIT_S, "that the node is called lost")
            go.touch()
            assert run.wait(WAIT_S) is RunState.SUCCEEDED
            assert run.results == {0: 1}

    @pytest.mark.slow
    def test_a_node_that_comes_late_takes_part(self, place: Place, tmp_path: Path):
        go = tmp_path / "go"
        alone = self.elastic(place, tmp_path)
        options = {"nnodes": "1:2", "nproc_per_node": 1, "max_restarts": 3}
        with launched(programs.tick_until, str(go), place=alone, **options) as run:
            until(lambda: logs_say(run, "world 1", ranks=1) or logs_say(run, "world 2", ranks=2), WAIT_S, "a world")
            self.add_machine(alone)
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            go.touch()
            assert run.wait(WAIT_S) is RunState.SUCCEEDED
            assert run.results == {0: 2, 1: 2}

    @pytest.mark.slow
    def test_a_fixed_group_that_loses_a_node_fails_and_says_which(self, place: Place, tmp_path: Path):
        with launched(programs.tick_until, str(tmp_path / "go"), place=place, nnodes="2", nproc_per_node=1) as run:
            until(lambda: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            self.crash(run, 1)
            assert run.wait(WAIT_S) is RunState.FAILED
            self.check_lost(run, 1)

    @pytest.mark.slow
    def test_a_silent_node_is_lost_after_some_seconds(self, place: Place, tmp_path: Path):
        with launched(programs.save_when_stopped, place=place, nnodes="2", nproc_per_node=1) as run:
            until(lambda: logs_say(run, "waits", ranks=2), WAIT_S, "two ranks that wait")
            silent = node(run, 1)
            silent.signal(signal.SIGSTOP)
            assert run.wait(WAIT_S) is RunState.FAILED
            self.check_lost(run, 1)
            silent.signal(signal.SIGCONT)
            until(lambda: not silent.is_alive, WAIT_S, "the end of the silent node")

    def test_nothing_is_left_of_a_kernel_that_was_killed(self, place: Place, tmp_path: Path):
        self.check_killed(place, tmp_path, lambda kernel, _driver: kernel.kill())

    @pytest.mark.slow
    def test_nothing_is_left_of_a_driver_that_was_killed(self, place: Place, tmp_path: Path):
        self.check_killed(place, tmp_path, lambda _kernel, driver: driver.signal(signal.SIGKILL))

    @pytest.mark.slow
    def test_two_kernels_run_at_once(self, place: Place, tmp_path: Path):
        if place.nodes < 4:
            pytest.skip("the place has not enough machines")
        go = tmp_path / "go"
        options = {"nnodes": "2", "nproc_per_node": 1}
        with (
            launched(programs.tick_until, str(go), place=place, **options) as one,
            launched(programs.tick_until, str(go), place=place, **options) as other,
        ):
            for run in (one, other):
                until(lambda run=run: logs_say(run, "world 2", ranks=2), WAIT_S, "a world of two")
            go.touch()
            assert [run.wait(WAIT_S) for run in (one, other)] == [RunState.SUCCEEDED] * 2
            assert not {node_.pid for node_ in _nodes(one)} & {node_.pid for node_ in _nodes(other)}

    # -- what an engine's own tests may change -----------------------------------------------

    def elastic(self, place: Place, folder: Path) -> Place:
        """A place for a run that grows; with one machine fewer than it will have, if that can be."""
        del folder
        return place

    def add_machine(self, place: Place) -> None:
        """One more machine is there."""

    def remove_machine(self, place: Place) -> None:
        """The second machine is about to be gone, and no other will be there."""

    def crash(self, run: Run, index: int) -> None:
        """A node is gone from one moment to the next."""
        node(run, index).signal(signal.SIGKILL)

    def check_lost(self, run: Run, index: int) -> None:
        """The run says which node it lost."""
        now = run.snapshot
        assert now.category == "lost a peer"
        assert re.match(
            rf"Node {index} \(.+\) was lost: .+ The run needs at least 2 node\(s\), and 1 is left\.", now.text
        )
        assert run.root_cause is not None
        assert run.root_cause.node == index
        assert run.root_cause.message == "its node was lost"
        assert re.search(rf"failed: Node {index} \(.+\) was lost: ", str(_error_of(run)))

    def check_killed(self, place: Place, tmp_path: Path, kill: Any) -> None:
        """Kill something while ranks wait; then nothing is left of what this home's kernel started."""
        home = tmp_path / "home"
        with Kernel(cwd=ROOT, env={"NB_ELASTIC_HOME": str(home)}) as kernel:
            kernel.ok("%load_ext nb_elastic")
            cell = kernel.start(
                f"%%elastic_launch --nnodes 2 --nproc 2 --engine {engine_of(place)} --name doomed\n"
                "from tests.programs import on_many_nodes as programs\nprograms.save_when_stopped()"
            )
            run = Run(detached.run_named(home, "doomed"))
            until(lambda: len(run.snapshot.workers) == 4 and logs_say(run, "waits", ranks=4), WAIT_S, "four ranks")
            now = run.snapshot
            driver = ProcessId(now.supervisor_pid, now.supervisor_start_ticks)
            ranks = [seen(w.pid, start_ticks=w.start_ticks) for w in now.workers]
            assert None not in ranks
            nodes = _nodes(run)
            assert len(nodes) == 2
            kill(kernel, driver)
            until(lambda: not any(p.is_alive for p in (driver, *nodes, *ranks)), 20, "the end of all")
            if ProcessId.of(kernel.pid) is not None:
                assert kernel.wait(cell).reply["ename"] == "RunLostError"


def _nodes(run: Run) -> list[ProcessId]:
    return [found for e in told(run, "node_joined") if (found := _node(e)) is not None]


def _node(joined: Event) -> ProcessId | None:
    """The node program that said hello so; on a machine with pids of its own, maybe."""
    return seen(joined["pid"], environ=f"NB_ELASTIC_NODE_PLACE={joined['place']}") or seen(joined["pid"])


def _error_of(run: Run) -> Exception | None:
    try:
        run.raise_for_state()
    except nb_elastic.ElasticError as e:
        return e
    return None
