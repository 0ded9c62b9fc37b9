"""Pretended machines for real clusters: each with processes, network, name and /etc/hosts of its own, on one switch.

Runs in: the tests; needs root (CAP_SYS_ADMIN), else the test is skipped. Files and /dev/shm are those of this machine.

    with hosts(3, style="debian") as net:
        net[0].run("ray", "start", "--head")            # text that it printed
        process = net[1].popen("python", "-m", ...)     # a Popen; kill() and the like reach the program itself
        net[1].unplug(); net[1].plug(); net[1].crash()
        with net[0].entered(): ...                      # this thread, and what it starts, has the network of net[0]

All of it lives in one PID namespace, which ends with the block, and with the test's process if that is killed: nothing can
be left behind. Each host has a PID namespace in there, so that a crash ends all that ran on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from nb_elastic.lifeline import ProcessId, descendants
from tests.support.until import until

ROOT = Path(__file__).parents[2]
STYLES = ("proper", "debian", "nameless")
"""What /etc/hosts says of a host's own name: its address; 127.0.1.1, as Debian's installer writes; nothing.

Of the others' names it says their addresses in the first two.
"""
CLONE_NEWNET = 0x40000000
_STAY = "ip link set lo up && echo up && cat >/dev/null; exit"
"""The shell stays as process 1: it reaps orphans, as a machine's init does, and ends when the test is gone."""


class Process(subprocess.Popen):
    """A program on a host; signals reach the program, not what brought it there."""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.inner, number)

    @property
    def inner(self) -> int:
        """Pid of the program, as seen from the test."""
        if self.poll() is not None:
            raise ProcessLookupError(f"{self.args} has ended with {self.returncode}")
        below = until(lambda: descendants(self.pid) or self.poll() is not None, 60, "the program's start")
        return below[0] if isinstance(below, list) else self.pid


class Host:
    """One pretended machine.

    Attributes:
        name: host name, ``node0`` ...
        address: ``10.77.0.1`` ...; the network device is ``eth0``.
        prefix: words that start a command on it.
        programs: what was started on it.
        has_crashed: it was made to.
        etc_hosts: the file that it has as /etc/hosts.
    """

    def __init__(self, number: int, yard: int, etc_hosts: str, folder: Path) -> None:
        self.name, self.address = f"node{number}", f"10.77.0.{number + 1}"
        self.programs: list[Process] = []
        self.has_crashed = False
        self._port, self._yard = f"port{number}", yard
        there = ("nsenter", f"--target={yard}", "--net", "--mount", "--pid", "--")
        flags = ("--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.holder, self.pid = _hold((*there, "unshare", *flags))
        flags = (f"--target={self.pid}", "--net", "--uts", "--mount", "--pid", f"--wd={ROOT}")
        self.prefix: tuple[str, ...] = ("nsenter", *flags, "--")
        self.etc_hosts = folder / f"{self.name}.hosts"
        for file, text in (("hosts", etc_hosts), ("resolv.conf", "")):
            (folder / f"{self.name}.{file}").write_text(text)
        self.run("sh", "-ec", f"""
            mount --bind {folder}/{self.name}.hosts /etc/hosts
            mount --bind {folder}/{self.name}.resolv.conf /etc/resolv.conf
            hostname {self.name}""")  # fmt: skip
        _run_on_switch(
            self._yard,
            f"""
            ip link add {self._port} type veth peer name eth0 netns {self.pid}
            ip link set {self._port} master switch up""",
        )
        self.run("sh", "-ec", f"""
            ip addr add {self.address}/24 dev eth0
            ip link set eth0 up
            ip route add default via {self.address}""")  # fmt: skip

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = 60) -> str:
        """Run a command on it and return what it printed; it must succeed."""
        with self.popen(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0, f"{command} on {self.name}: {process.returncode}\n{out}\n{err}"
        return str(out)

    def popen(self, *command: str, env: Mapping[str, str] | None = None, **more: Any) -> Process:
        """Start a program on it, with nothing on stdin.

        Args:
            env: beyond the test's own environment.
        """
        more.setdefault("stdin", subprocess.DEVNULL)
        self.programs.append(Process([*self.prefix, *command], env={**os.environ, **(env or {})}, **more))
        return self.programs[-1]

    def unplug(self) -> None:
        """Pull its cable."""
        _run_on_switch(self._yard, f"ip link set {self._port} down")

    def plug(self) -> None:
        """Put it back."""
        _run_on_switch(self._yard, f"ip link set {self._port} up")

    @contextlib.contextmanager
    def with_version(self, package: str, version: str) -> Iterator[None]:
        """Have it another version of a package: what is installed says so there, and nowhere else."""
        found = metadata.distribution(package)
        [file] = [found.locate_file(name) for name in found.files or () if str(name).endswith(".dist-info/METADATA")]
        other = self.etc_hosts.with_name(f"{self.name}.{package}")
        other.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        self.run("mount", "--bind", str(other), str(file))
        try:
            yield
        finally:
            self.run("umount", str(file))

    def crash(self) -> None:
        """Kill all its processes at once; its connections are reset. Unplug first for a machine that loses its power."""
        os.kill(self.pid, signal.SIGKILL)
        self.has_crashed = True
        self.holder.wait(30)

    def pids(self) -> list[int]:
        """All its processes but those that stand for its init, as seen from the test."""
        own = _namespace(self.pid)
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()] if own else []
        return sorted(p for p in pids if p != self.pid and _namespace(p) == own and _words(p).strip() != "cat")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Give this thread, and what it starts meanwhile, the host's network (alone)."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:
            _setns(there.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())


def restyle(net: Sequence[Host], style: str) -> None:
    """Have /etc/hosts of all these say something else of their names, from now on."""
    for number, host in enumerate(net):
        host.etc_hosts.write_text(_etc_hosts(number, len(net), style))


def seen(pid: int, *, start_ticks: int = 0, environ: str = "") -> ProcessId | None:
    """A process, on whatever host, by the pid that it has there; None if there is none any more.

    Args:
        start_ticks: when it began; 0 where nobody knows.
        environ: what must stand in its environment, since two hosts may have the same pid.
    """
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration):
            status = (path / "status").read_text().splitlines()
            if next(line for line in status if line.startswith("NSpid:")).split()[-1] != str(pid):
                continue
            if environ and environ.encode() not in (path / "environ").read_bytes().split(b"\0"):
                continue
            found = ProcessId.of(int(path.name))
            if found is not None and start_ticks in {0, found.start_ticks}:
                return found
    return None


@contextlib.contextmanager
def hosts(count: int, *, style: str = "proper") -> Iterator[list[Host]]:
    """Give so many machines on one switch; skips the test where namespaces can't be made.

    Args:
        style: of /etc/hosts; see ``STYLES``.
    """
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "mount", "hostname") if not shutil.which(tool)]:
        pytest.skip(f"needs {missing[0]}")
    with tempfile.TemporaryDirectory(prefix="nbe-hosts-") as folder:
        try:
            yard, pid = _hold(("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"))
        except OSError as e:
            pytest.skip(f"namespaces can't be made here: {e}")
        made: list[Host] = []
        try:
            _run_on_switch(pid, "ip link add switch type bridge; ip link set switch up")
            for number in range(count):
                made.append(Host(number, pid, _etc_hosts(number, count, style), Path(folder)))
            until(lambda: all("LOWER_UP" in host.run("ip", "link", "show", "eth0") for host in made), 60, "the cables")
            yield made
        finally:
            yard.kill()  # and with it, by --kill-child, the first process there, and so all others
            for holder in (yard, *(host.holder for host in made)):
                holder.wait(30)
                assert holder.stdin is not None
                holder.stdin.close()
            for program in [program for host in made for program in host.programs]:
                program.wait(30)


def _hold(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a shell as the first process of new namespaces; what holds it, and its pid here.

    Raises:
        OSError: if they can't be made.
    """
    process = subprocess.Popen(
        [*command, "sh", "-c", _STAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out, process.stderr as err:
        if out.readline() != b"up\n":
            process.kill()
            raise OSError(err.read().decode(errors="replace").strip())
    own = _namespace(os.getpid())
    below = [pid for pid in descendants(process.pid) if _namespace(pid) not in {"", own}]
    pid = next(pid for pid in below if _words(pid).startswith("sh"))  # and not the child that is to become cat
    until(lambda: any(_words(below).strip() == "cat" for below in descendants(pid)), 60, "what keeps the shell waiting")
    return process, pid


def _run_on_switch(yard: int, script: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--target={yard}", "--net", "--", "sh", "-ec", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _etc_hosts(number: int, count: int, style: str) -> str:
    assert style in STYLES
    lines = ["127.0.0.1 localhost"]
    for n in range(count) if style != "nameless" else ():
        address = "127.0.1.1" if n == number and style == "debian" else f"10.77.0.{n + 1}"
        lines.append(f"{address} node{n}")
    return "\n".join(lines) + "\n"


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/pid")
    return ""


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
