"""What a process inherits beside its environment (limits, priority, CPUs), and what Python reads from that environment at its start.

Runs in: the kernel or command line, which reads its own, and the worker, which takes them on. Standard library only.
"""

from __future__ import annotations

import contextlib
import locale
import os
import resource
import sys
import time
import warnings
from collections.abc import Mapping, Sequence

LOCALE_VARIABLES = ("LC_ALL", "LC_CTYPE", "LANG")


def rlimits() -> dict[str, tuple[int, int]]:
    """This process's resource limits: name as in ``RLIMIT_<name>`` -> (soft, hard); -1 is no limit."""
    names = (n.removeprefix("RLIMIT_") for n in dir(resource) if n.startswith("RLIMIT_") and n != "RLIMIT_OFILE")
    found: dict[str, tuple[int, int]] = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            found[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return found


def take_rlimits(wanted: Mapping[str, Sequence[int]]) -> list[str]:
    """Give this process these limits; returns, in words, those it could not get.

    A hard limit that may not be raised keeps its height, and the soft one comes as near as that allows.
    """
    short: list[str] = []
    for name, (soft, hard) in wanted.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        now = resource.getrlimit(number)
        if now == (soft, hard):
            continue
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError):
            best = _lower(soft, now[1])
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(number, (best, _lower(hard, now[1])))
            short.append(f"{name} is {_said(best)} at most {_said(now[1])}, not {_said(soft)} at most {_said(hard)}")
    return short


def write_freely() -> None:
    """Let this process, which is no rank, write files as large as the hard limit allows: a run's last word must find room."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    take_rlimits({"FSIZE": (hard, hard)})


def niceness() -> int:
    """This process's nice value, -20 to 19."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def take_niceness(wanted: int | None) -> None:
    """Give this process a nice value, as far as it may."""
    if wanted is not None and wanted != niceness():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, wanted)


def affinity() -> tuple[int, ...]:
    """CPUs that this process may use; empty where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def take_affinity(wanted: Sequence[int]) -> None:
    """Let this process's main thread use these CPUs, as far as it may; none leaves it as it is."""
    if wanted and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, wanted)


def heed(before: Mapping[str, str]) -> None:
    """Do what an interpreter does at its start with locale, time zone, temporary folder and warnings, where the environment changed.

    Args:
        before: the environment that this process, or the one that forked it, had until now.
    """
    if _differ(before, LOCALE_VARIABLES):
        _heed_locale()
    if _differ(before, ("TMPDIR", "TEMP", "TMP")) and (tempfile := sys.modules.get("tempfile")):
        tempfile.tempdir = None  # type: ignore[attr-defined]  # looked for anew
    if _differ(before, ("TZ",)) and hasattr(time, "tzset"):
        time.tzset()
    if _differ(before, ("PYTHONWARNINGS",)):
        _heed_warnings(_listed(before.get("PYTHONWARNINGS")), _listed(os.environ.get("PYTHONWARNINGS")))


def _heed_locale() -> None:
    with contextlib.suppress(locale.Error):
        found = locale.setlocale(locale.LC_CTYPE, "")
        if found in {"C", "POSIX"} and not os.environ.get("LC_ALL") and os.environ.get("PYTHONCOERCECLOCALE") != "0":
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")  # PEP 538
            os.environ["LC_CTYPE"] = "C.UTF-8"
        return
    with contextlib.suppress(locale.Error):  # one that this machine lacks: an interpreter stays with C, too
        locale.setlocale(locale.LC_CTYPE, "C")


def _heed_warnings(old: list[str], new: list[str]) -> None:
    """Replace what the variable had added: below the filters of imported libraries, above Python's own."""
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    was = _made_of(old)
    kept = [f for f in filters if f not in was]
    own = 0 if sys.flags.dev_mode else 5
    at = max(0, len(kept) - own)
    filters[:] = [*kept[:at], *_made_of(new), *kept[at:]]
    sys.warnoptions[:] = [*(o for o in sys.warnoptions if o not in old), *new]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001


def _made_of(options: list[str]) -> list[object]:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings._processoptions(options)  # type: ignore[attr-defined]  # noqa: SLF001
        return list(warnings.filters)


def _differ(before: Mapping[str, str], names: Sequence[str]) -> bool:
    return any(before.get(n) != os.environ.get(n) for n in names)


def _listed(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def _lower(wanted: int, limit: int) -> int:
    """The lower of two limits, where -1 is none."""
    return limit if wanted < 0 else wanted if limit < 0 else min(wanted, limit)


def _said(limit: int) -> str:
    return "without limit" if limit < 0 else str(limit)
