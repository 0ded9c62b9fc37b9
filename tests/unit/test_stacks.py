"""From faulthandler's text and the recorders' words to one sentence: who waits for whom. Nonsense in, some answer out."""

from __future__ import annotations

import faulthandler
import sys
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nb_elastic import stacks_dump, stacks_flight, stacks_frames, stacks_judge, stacks_native, stacks_text, stacks_waits
from nb_elastic.model import Frame, StackGroup, StackReport
from nb_elastic.stacks_nouns import RankStack

CELL, LIB = "Cell In[12]", "/usr/lib/python3.11"
TORCH = f"{LIB}/site-packages/torch/distributed"


def frame(file: str, line: int, name: str = "f", text: str = "") -> Frame:
    return Frame(file=file, line=line, name=name, text=text)


# -- faulthandler's text ----------------------------------------------------------------------


def test_a_dump_of_several_threads_is_read_with_the_main_one_told_apart():
    text = (
        'Thread 0x00007f97c24cc6c0 (most recent call first):\n  File "/a/b.py", line 17 in sig\n'
        '  File "/usr/lib/python3.11/threading.py", line 982 in run\n\n'
        'Current thread 0x00007f97c2ccd6c0 (most recent call first):\n  File "Cell In[3]", line 2 in <module>\n'
    )
    threads = stacks_dump.parse(text.encode())
    assert [t.frames for t in threads] == [
        (frame(f"{LIB}/threading.py", 982, "run"), frame("/a/b.py", 17, "sig")),
        (frame("Cell In[3]", 2, "<module>"),),
    ]
    assert stacks_dump.main_thread(threads) is threads[1]


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        (b'Stack (most recent call first):\n  File "a.py", line 1 in f\n  File "a.py", li', [("a.py", 1, "f")]),
        (b'Stack (most recent call first):\n  File ???, line ??? in g\n  File "a.py", line 1 in f\n', [("a.py", 1, "f"), ("???", 0, "g")]),
        (b'Thread 0x0000aa [worker] (most recent call first):\n  File "a.py", line 1 in f\n  ...\n', [("a.py", 1, "f")]),
        (b'  File "a.py", line 1 in f\n', None),
        (b"Stack (most recent call first):\n  <no Python frame>\n", None),
        (b"\xff\x00" * 100, None),
        (b"", None),
    ],
)  # fmt: skip
def test_a_dump_that_is_torn_or_odd_is_read_as_far_as_it_goes(text: bytes, frames: list[tuple[str, int, str]] | None):
    found = stacks_dump.main_thread(stacks_dump.parse(text))
    assert (found and [(f.file, f.line, f.name) for f in found.frames]) == frames


def test_names_of_other_alphabets_come_back_as_they_are():
    space: dict[str, object] = {}
    code = "def größe_名():\n    dump()\n"
    exec(compile(code, "/tmp/ä 中 😀.py", "exec"), space)
    with tempfile.TemporaryFile() as f:
        space["dump"] = lambda: faulthandler.dump_traceback(f, all_threads=False)
        space["größe_名"]()
        f.seek(0)
        thread = stacks_dump.main_thread(stacks_dump.parse(f.read()))
    assert thread is not None
    assert [(one.file, one.line, one.name) for one in thread.frames][-2] == ("/tmp/ä 中 😀.py", 2, "größe_名")


def test_what_this_python_writes_of_all_threads_is_read():
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    with tempfile.TemporaryFile() as f:
        faulthandler.dump_traceback(f)
        f.seek(0)
        threads = stacks_dump.parse(f.read())
    stop.set()
    other.join()
    names = [[one.name for one in t.frames] for t in threads]
    assert any("wait" in found for found in names)
    main = stacks_dump.main_thread(threads)
    assert main and main.is_current and main.frames[-1].name == sys._getframe().f_code.co_name


@given(st.binary(max_size=2_000))
def test_any_bytes_make_some_answer(data: bytes):
    stacks_dump.main_thread(stacks_dump.parse(data))
    stacks_dump.main_thread(stacks_dump.parse(b"Stack (most recent call first):\n" + data))


# -- the recorders ----------------------------------------------------------------------------


def told(seq: int, *pending: dict[str, object], ranks: int = 4) -> dict[str, object]:
    entries = [{"group": "0", "seq": 1, "op": "all_reduce", "is_done": True}, *pending]
    return {"groups": [{"name": "0", "ranks": list(range(ranks)), "seq": seq}], "entries": entries}


def waits(seq: int, op: str = "all_reduce", shapes: str = "[[3]]") -> dict[str, object]:
    return {"group": "0", "seq": seq, "op": op, "shapes": shapes, "types": "['Float']", "is_done": False}


def verdict(*flights: dict[str, object]) -> stacks_flight.Verdict:
    read = {rank: stacks_flight.read(one) for rank, one in enumerate(flights)}
    return stacks_flight.judge({rank: one for rank, one in read.items() if one is not None})


FLIGHTS = {
    "nobody waits": ((told(5), told(5)), ("", ())),
    "one is missing": ((told(5, waits(5)), told(5, waits(5)), told(4), told(5, waits(5))), ("missing", (2,))),
    "another collective": ((told(5, waits(5)), told(5, waits(5)), told(5, waits(5, "broadcast"))), ("mismatch", (2,))),
    "other shapes": ((told(5, waits(5)), told(5, waits(5, shapes="[[4]]")), told(5, waits(5))), ("shapes", (1,))),
    "all alike": ((told(5, waits(5), ranks=2), told(5, waits(5), ranks=2)), ("together", ())),
    "halves: rank 0 is right": ((told(5, waits(5)), told(5, waits(5, "barrier"))), ("mismatch", (1,))),
    "one went on": ((told(5, waits(5)), told(6, waits(6)), told(4)), ("missing", (2,))),
    "nonsense": (({"groups": 7}, {"groups": [{"ranks": {}}], "entries": [3, None]}), ("", ())),
}


@pytest.mark.parametrize("what", FLIGHTS)
def test_the_recorders_say_who_is_missing_and_whose_call_differs(what: str):
    flights, (kind, odd) = FLIGHTS[what]
    found = verdict(*flights)
    assert (found.kind, found.odd) == (kind, odd), found


def test_the_sentence_names_number_operation_and_shapes():
    assert verdict(*FLIGHTS["one is missing"][0]).text == (
        "Rank 2 did not call collective #5 of the default group, all_reduce, in which ranks 0, 1, 3 wait (the last one called there was #4)."
    )
    assert verdict(*FLIGHTS["other shapes"][0]).text == (
        "The shapes of collective #5 of the default group, all_reduce, differ: [[3]] ['Float'] on ranks 0, 2; [[4]] ['Float'] on rank 1."
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["groups", "entries", "name", "ranks", "seq", "group", "op", "is_done"]), inner, max_size=5
        )
    ),
    max_leaves=30,
)


@given(st.lists(st.dictionaries(st.sampled_from(["groups", "entries"]), JSON), min_size=1, max_size=4))
def test_whatever_ranks_tell_of_their_flights_there_is_some_verdict(flights: list[dict[str, object]]):
    verdict(*flights)


# -- what a rank waits for --------------------------------------------------------------------


def wait(
    *frames: Frame, wchan: str = "", is_busy: bool = False, op: str = "", gpu: bool = False, awaited: str = ""
) -> str:
    found = stacks_waits.recognise(frames, wchan=wchan, awaited=awaited, is_busy=is_busy, pending_op=op, has_gpu=gpu)
    return f"{found.kind}: {found.doing}" if found else ""


USER = frame(CELL, 31, "<module>")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (wait(USER, frame(f"{TORCH}/c10d_logger.py", 83, "wrapper"), frame(f"{TORCH}/distributed_c10d.py", 1, "all_reduce"), is_busy=True), "collective: waits in all_reduce"),
        (wait(USER, frame(f"{TORCH}/distributed_c10d.py", 1, "all_gather_object"), frame(f"{TORCH}/distributed_c10d.py", 2, "all_gather")), "collective: waits in all_gather_object"),
        (wait(USER, frame(f"{TORCH}/distributed_c10d.py", 1, "monitored_barrier")), "barrier: waits in monitored_barrier"),
        (wait(USER, frame(f"{TORCH}/distributed_c10d.py", 1, "init_process_group"), frame(f"{TORCH}/rendezvous.py", 2, "_create_c10d_store")), "beginning: waits in init_process_group"),
        (wait(frame(CELL, 31, text="work.wait()"), wchan="futex_do_wait", op="all_gather"), "collective: waits in all_gather"),
        (wait(frame(CELL, 31, text="loss.backward()"), op="all_reduce"), "collective: waits in all_reduce"),
        (wait(frame(CELL, 31, text="x = loss.item()"), is_busy=True, gpu=True), "gpu: waits for the GPU"),
        (wait(frame(CELL, 31, text="x = loss.item()"), is_busy=True), ""),
        (wait(frame(CELL, 31, text="torch.cuda.synchronize()"), frame(f"{LIB}/site-packages/torch/cuda/__init__.py", 1, "synchronize"), is_busy=True), "gpu: waits for the GPU"),
        (wait(frame(CELL, 31, text="time.sleep(9)"), wchan="hrtimer_nanosleep"), "sleep: sleeps"),
        (wait(frame(CELL, 31, text="x = f.read()"), wchan="anon_pipe_read", awaited="/data/x.fifo"), "file: waits to read from a pipe (/data/x.fifo)"),
        (wait(frame(CELL, 31, text="with lock:"), wchan="futex_wait_queue"), "lock: waits for a lock"),
        (wait(frame(CELL, 31, text="x += 1"), is_busy=True), ""),
        (wait(wchan="do_wait"), "child: waits for a child process"),
        (wait(), ""),
    ],
)  # fmt: skip
def test_a_wait_is_recognised(found: str, expected: str):
    assert found == expected


@pytest.mark.parametrize(
    ("file", "is_users"),
    [
        (CELL, True), ("/home/me/train.py", True), ("<string>", True), (f"{LIB}/queue.py", False), ("<frozen runpy>", False),
        ("/opt/venv/lib/python3.12/site-packages/x.py", False), (f"{stacks_frames.OWN}worker.py", False),
    ],
)  # fmt: skip
def test_the_user_s_own_code_is_told_from_libraries(file: str, is_users: bool):
    assert stacks_frames.is_users(frame(file, 1)) is is_users


def test_what_stands_above_the_user_s_code_is_left_out():
    own = [frame(f"{stacks_frames.OWN}{name}.py", 1) for name in ("launcher", "worker", "entry")]
    asked = frame(f"{stacks_frames.OWN}rankshell_hooks.py", 1, "input")
    assert stacks_frames.without_own([frame("<frozen runpy>", 1), *own, USER, asked]) == (USER, asked)


# -- the verdict ------------------------------------------------------------------------------


def stack(
    rank: int, line: int, doing: str, *, is_for_others: bool = False, state: str = "waiting", kind: str = ""
) -> RankStack:
    user = frame(CELL, line)
    return RankStack(
        rank=rank, pid=rank, state=state, doing=doing, kind=kind, frames=(user,), user=user, places=((CELL, line),), is_for_others=is_for_others
    )  # fmt: skip


def test_those_that_wait_come_first_in_the_headline_and_the_odd_one_first_in_the_groups():
    stacks = [
        *(stack(r, 31, "waits in all_reduce", is_for_others=True, kind="collective") for r in (0, 1, 3)),
        stack(2, 24, "is in next(loader)", kind="dataloader"),
    ]
    report = stacks_judge.judge(stacks, cause="hang", time_ns=5)
    assert report == StackReport(
        time_ns=5,
        cause="hang",
        headline="Ranks 0, 1, 3 wait in all_reduce, Cell In[12], line 31; rank 2 is in next(loader), line 24.",
        advice=stacks_judge.KINDS["dataloader"],
        kind="dataloader",
        groups=(
            StackGroup(ranks=(2,), state="waiting", doing="is in next(loader), Cell In[12], line 24", frames=(frame(CELL, 24),), is_odd=True),
            StackGroup(ranks=(0, 1, 3), state="waiting", doing="waits in all_reduce, Cell In[12], line 31", frames=(frame(CELL, 31),)),
        ),
    )  # fmt: skip
    assert (
        stacks_text.text(report).splitlines()[3]
        == "Rank 2 (waiting, the odd one): is in next(loader), Cell In[12], line 24"
    )


def test_of_a_stall_those_are_odd_that_stand_by_themselves_else_those_that_are_awaited():
    computes = RankStack(rank=0, pid=1, state="busy", doing="computes", kind="loop")
    sleeps = RankStack(rank=1, pid=2, state="waiting", doing="sleeps", kind="sleep")
    awaits = RankStack(rank=2, pid=3, state="waiting", doing="waits in x", kind="collective", is_for_others=True)
    also = RankStack(rank=3, pid=4, state="waiting", doing="sleeps", kind="sleep")

    def told(*stacks: RankStack, still: set[int]) -> list[tuple[tuple[int, ...], bool, bool]]:
        report = stacks_judge.judge(stacks, cause="stall", time_ns=1, still=still)
        return [(g.ranks, g.is_odd, g.is_still) for g in report.groups]

    assert told(computes, awaits, still={2}) == [((0,), True, False), ((2,), False, True)]
    assert told(computes, sleeps, awaits, still={1, 2})[0] == ((1,), True, True)
    assert told(computes, sleeps, also, still={1})[0] == ((1,), True, True), "at the same place, and it moves"
    advice = [
        stacks_judge.judge(s, cause="stall", time_ns=1, still={1}).advice
        for s in ((computes, sleeps), (sleeps, awaits))
    ]
    assert advice == ["", "It sleeps while the others wait for it."], "nobody waits for it, or somebody does"


def test_ranks_that_all_do_the_same_have_no_odd_one():
    report = stacks_judge.judge([stack(r, 3, "sleeps", kind="sleep") for r in range(3)], cause="hang", time_ns=1)
    assert (report.headline, report.kind) == ("Ranks 0-2 sleep, Cell In[12], line 3.", "sleep")
    assert [g.is_odd for g in report.groups] == [False]


def test_different_collectives_are_seen_without_a_recorder():
    stacks = [stack(r, 5, f"waits in {op}", is_for_others=True, kind="collective") for r, op in enumerate(["all_reduce", "all_reduce", "broadcast"])]  # fmt: skip
    report = stacks_judge.judge(stacks, cause="asked", time_ns=1)
    assert (report.kind, report.groups[0].ranks) == ("mismatch", (2,))


def test_many_ranks_make_a_headline_that_can_be_read():
    stacks = [stack(r, r, "computes", state="busy", kind="loop") for r in range(64)]
    report = stacks_judge.judge(stacks, cause="asked", time_ns=1)
    assert report.headline.startswith("Ranks 0-58 are elsewhere; rank 59 computes, Cell In[12], line 59;")


def test_nobody_is_no_error():
    assert stacks_judge.judge([], cause="asked", time_ns=1).headline == "No rank is there."


def test_native_frames_are_named_down_to_the_first_line_of_python():
    threads = [{"thread_name": "MainThread", "os_thread_id": 7, "frames": [
        {"name": "pthread_cond_wait", "filename": "libc.so.6"}, {"name": "wait", "filename": "libtorch.so"}, {"name": "f", "filename": "a.py"}]}]  # fmt: skip
    assert stacks_native.text_of(threads, 7) == "Native stack: pthread_cond_wait < wait."
    assert [stacks_native.text_of(x, 7) for x in (None, [3], [{"frames": 4}], {})] == [""] * 4
