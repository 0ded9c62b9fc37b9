"""Processes that hold the locks of ranks and die, one by one or otherwise; what the deathwatch saw is printed.

Runs in: ``python -m tests.support.dying_ranks SCENE``: they are forked, which a test's own process, with its threads, can't do.
"""

import json
import os
import signal
import sys
import threading

from nb_elastic import steady
from nb_elastic.knell import OWNER_DIED, STOP, Knell
from nb_elastic.supervisor.deathwatch import MOST_THREADS, DeathWatch
from tests.support.until import until


def rank(knell, place, then=signal.pause):
    """Fork a process that holds a lock and does something then; its pid, and a pipe that lets it begin."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_w)
            os.write(ready_w, b"y" if knell.hold(place) else b"n")
            os.read(go_r, 1)
            then()
        finally:
            os._exit(1)
    if os.read(ready_r, 1) != b"y":
        print(json.dumps("none"))
        sys.exit()
    return pid, go_w


def kill(pid):
    """Kill one and wait until it is dead, but do not reap it."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def one_by_one(knell, watch):
    pids = [rank(knell, n)[0] for n in range(3)]
    watch.begin(dict(enumerate(pids)))
    spans = {}
    for n in (1, 2, 0):
        kill(pids[n])
        spans[n] = until(lambda n=n: watch.span(pids[n]))
    found = [at for n in (1, 2, 0) for at in spans[n]]
    return found == sorted(found)


def at_one_look(knell, watch):
    pids = [rank(knell, n)[0] for n in range(2)]
    watch._pids = dict(enumerate(pids))
    for pid in pids:
        kill(pid)
    watch._note({n: knell.word(n) for n in range(2)}, 101_000_000, 105_000_000)
    return [watch.span(pid) for pid in reversed(pids)]


def woken_late(knell, watch):
    """Three die; the threads of the first two come to it when both are dead, and before the third is."""
    pids = [rank(knell, n)[0] for n in range(3)]
    watch._pids, watch._watched = dict(enumerate(pids)), {0, 1, 2}
    kill(pids[0])
    kill(pids[1])
    now_ns = steady.wall_ns()
    watch._note({1: knell.word(1)}, now_ns, now_ns)
    watch._note({0: knell.word(0)}, now_ns - 1_000_000, now_ns)
    kill(pids[2])
    watch._note({2: knell.word(2)}, now_ns - 3_000_000, now_ns)
    return [*(watch.span(pid) for pid in pids), now_ns]


def woken_much_too_late(knell, watch):
    """The second's thread comes at once and sees both dead, the first's long after."""
    pids = [rank(knell, n)[0] for n in range(2)]
    watch._pids, watch._watched = dict(enumerate(pids)), {0, 1}
    kill(pids[0])
    kill(pids[1])
    now_ns = steady.wall_ns()
    watch._note({1: knell.word(1)}, now_ns, now_ns)
    watch._note({0: knell.word(0)}, now_ns + 50_000_000, now_ns + 50_000_000)
    return [watch.span(pid) for pid in pids]


def woken_too_early(knell, watch):
    """Its thread was kept from its CPU before it waited, too, and takes that off the moment at which it was woken."""
    pid, _ = rank(knell, 0)
    watch._pids, watch._watched = {0: pid}, {0}
    alive_ns = steady.wall_ns()
    watch.look()
    kill(pid)
    watch.look()
    dead_ns = steady.wall_ns()
    watch._note({0: knell.word(0)}, alive_ns - 3_000_000_000, dead_ns)
    return [alive_ns, *watch.span(pid), dead_ns]


def two_of_one_thread(knell, watch):
    """A thread that watches two ranks notes one of them, is kept from its CPU, and comes to the other."""
    places = 0, MOST_THREADS
    pids = [rank(knell, place)[0] for place in places]
    watch._pids, watch._watched = dict(zip(places, pids, strict=True)), set(places)
    for pid in pids:
        kill(pid)
    now_ns = steady.wall_ns()
    watch._note({places[0]: knell.word(places[0])}, now_ns, now_ns)
    watch._note({places[1]: knell.word(places[1])}, now_ns + 50_000_000, now_ns + 50_000_000)
    return [watch.span(pid) for pid in pids]


def dies_at_once(knell, watch):
    """Ranks that begin when they are watched already, round after round."""
    found = []
    for _ in range(20):
        go_r, go_w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(go_r, 1)
            knell.hold(0)
            os._exit(3)
        watch.begin({0: pid})
        os.write(go_w, b"!")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        found.append(until(lambda pid=pid: watch.span(pid)) is not None)  # the thread may wait for a CPU
        watch.end()
        os.waitpid(pid, 0)
    return found


def becomes_a_program(knell, watch):
    pid, go = rank(knell, 0, lambda: os.execvp("sleep", ["sleep", "60"]))
    watch.begin({0: pid})
    os.write(go, b"!")
    until(lambda: knell.word(0) & OWNER_DIED)
    span = watch.span(pid)
    kill(pid)
    return [span, watch.span(pid)]


def loses_a_child(knell, watch):
    def forks():
        child = os.fork()
        if child == 0:
            os._exit(3)
        os.waitpid(child, 0)
        os.close(done_w)
        signal.pause()

    done_r, done_w = os.pipe()
    pid, go = rank(knell, 0, forks)
    os.close(done_w)
    watch.begin({0: pid})
    os.write(go, b"!")
    os.read(done_r, 1)
    found = knell.is_held(0, pid), watch.span(pid)
    kill(pid)
    return found


def lies(knell, watch):
    victim, _ = rank(knell, 0)
    liar, go = rank(knell, 1, lambda: knell._write(0, knell.word(0) | OWNER_DIED))
    watch.begin({0: victim, 1: liar})
    os.write(go, b"!")
    is_seen = until(lambda: watch.span(liar)) is not None
    found = [watch.span(victim), is_seen]
    kill(victim)
    return found


def lives_on(knell, watch):
    pid, _ = rank(knell, 0)
    watch.begin({0: pid})
    watch.end()
    found = [knell.is_held(0, pid), watch.span(pid)]
    kill(pid)
    return found


def few_threads(knell, watch):
    pids = [rank(knell, n)[0] for n in range(2)]
    start = threading.Thread.start

    def start_one(thread):
        if watch._threads:
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = start_one
    watch.begin(dict(enumerate(pids)))
    for pid in pids:
        kill(pid)
    return [until(lambda: watch.span(pids[0])) is not None, watch.span(pids[1])]


def is_forbidden(knell, watch):
    pid, _ = rank(knell, 0)
    knell._waitv = knell._setattr = 100_000  # no such call
    watch.begin({0: pid})
    kill(pid)
    return watch.span(pid)


def main():
    knell = Knell.of_this_system()
    if knell is None or not knell.wait([(STOP, 1)]):  # it is 0: no wait
        print(json.dumps("none"))
        return
    watch = DeathWatch(knell)
    found = globals()[sys.argv[1]](knell, watch)
    watch.end()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
