"""The pretended machines are machines: with these, engines are tried as on a cluster.

A user would lose: what the tests of engines say of cables, crashes and odd /etc/hosts would be said of nothing.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.cluster_hosts import STYLES, hosts
from tests.support.until import until

LISTEN = "import socket; s = socket.create_server(('', 99)); print('up', flush=True)\nwhile True: s.accept()"
REACH = """if True:
    import socket, sys
    try:
        socket.create_connection((sys.argv[1], 99), 1)
    except OSError as e:
        print(type(e).__name__)
    else:
        print('reached')"""
OWN_NAME = {"proper": "10.77.0.2", "debian": "127.0.1.1", "nameless": ""}


@pytest.mark.parametrize("style", STYLES)
def test_a_host_has_a_name_an_address_and_a_cable(style):
    with hosts(2, style=style) as net:
        assert net[1].run("hostname").strip() == "node1"
        assert net[1].run("sh", "-c", "getent ahostsv4 node1 | head -n 1 | cut -d ' ' -f 1").strip() == OWN_NAME[style]
        listener = net[1].popen(sys.executable, "-c", LISTEN, stdout=subprocess.PIPE)
        with listener.stdout as out:
            assert out.readline() == b"up\n"

        def reached() -> str:
            return net[0].run(sys.executable, "-c", REACH, net[1].address).strip()

        assert reached() == "reached"
        net[1].unplug()
        assert reached() == "TimeoutError"
        net[1].plug()
        until(lambda: reached() == "reached", 10)
        with net[0].entered():
            assert subprocess.check_output([sys.executable, "-c", REACH, net[1].address]) == b"reached\n"
        assert listener.inner in net[1].pids()
        net[1].crash()
        assert listener.wait(10) != 0
        assert net[1].pids() == []
        assert reached() != "reached"


def test_signals_reach_the_program_and_nothing_outlives_the_block():
    with hosts(1) as net:
        first, second = net[0].popen("sleep", "100"), net[0].popen("sleep", "100")
        assert sorted([first.inner, second.inner]) == net[0].pids()
        first.terminate()
        assert first.wait(10) == -15
        assert second.poll() is None
    assert second.wait(10) != 0
