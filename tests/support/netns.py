"""Pretended machines on one: each a network, host name and /etc/hosts of its own, joined by a cable.

Runs in: the tests; needs root (CAP_SYS_ADMIN), else the test is skipped. Nothing outside is touched: the
namespaces and the cable are gone with the process that holds them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.until import until

ROOT = Path(__file__).parents[2]


class Host:
    """One pretended machine.

    Attributes:
        prefix: words that start a command on it.
    """

    def __init__(self, name: str, hosts: str, folder: Path) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", "echo up; exec sleep 1000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self._holder.pid
        self.prefix = ("nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", f"--wd={ROOT}", "--")
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            self.close()
            pytest.skip("namespaces can't be made here")
        for file, text in (("hosts", hosts), ("resolv.conf", "")):
            own = folder / f"{name}.{file}"
            own.write_text(text)
            self.run("mount", "--bind", str(own), f"/etc/{file}")
        self.run("hostname", name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str) -> str:
        """Run a command on it and return what it printed."""
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        """Let go of the namespaces."""
        self._holder.kill()
        self._holder.communicate()


@contextlib.contextmanager
def hosts(folder: Path, **etc_hosts: str) -> Iterator[list[Host]]:
    """Give machines by name, each with the text of its /etc/hosts; the n-th has the address 10.77.0.n.

    Skips the test where namespaces can't be made.
    """
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "mount", "hostname") if not shutil.which(tool)]:
        pytest.skip(f"needs {missing[0]}")
    with contextlib.ExitStack() as stack:
        made: list[Host] = []
        for name, text in etc_hosts.items():
            made.append(Host(name, text, folder))
            stack.callback(made[-1].close)
        if len(made) > 1:
            _join(made)
        yield made


def _join(made: list[Host]) -> None:
    """Join two machines by a cable; its ends are called eth0."""
    first, second = made
    cable = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(second.pid)]
    first.run(*cable)
    for number, host in enumerate(made, 1):
        host.run("ip", "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
    until(lambda: "LOWER_UP" in first.run("ip", "link", "show", "eth0"), 60, "the cable")
