"""How one option's value is read: from text or a Python object to the form LaunchOptions keeps.

Runs in: the kernel or command line. A reader returns the value or raises ValueError with the
rule as its text ("it must be ..."), so that the caller can name where the value came from.
"""

from __future__ import annotations

import keyword
import math
import operator
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any

Reader = Callable[[Any], Any]

MAX_RANKS = 4096
"""More ranks on one node than this is a typing error, not a wish."""
MAX_NODES = 65_536
MAX_INT = 2**31 - 1
BACKENDS = ("c10d", "static", "etcd", "etcd-v2")
"""Rendezvous backends that torch registers itself; more come from entry points."""
RESERVED_ENV = frozenset({
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE",
})  # fmt: skip
"""What the agent tells each rank itself."""

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def switch(value: Any) -> bool:
    """Read a yes or no: bool, 0, 1, or the usual words."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("it is either on or off (true or false)")


def whole(low: int, high: int = MAX_INT, *, what: str = "a whole number") -> Reader:
    """Make a reader of whole numbers between ``low`` and ``high``, both included."""

    def read(value: Any) -> int:
        number = _whole(value)
        if number is None or not low <= number <= high:
            bounds = f"at least {low}" if high == MAX_INT else f"from {low} to {high}"
            raise ValueError(f"it must be {what}, {bounds}")
        return number

    return read


def seconds(*, may_be_zero: bool) -> Reader:
    """Make a reader of a duration in seconds."""

    def read(value: Any) -> float:
        rule = f"it must be a number of seconds {'of 0 or more' if may_be_zero else 'above 0'}"
        if isinstance(value, bool):
            raise ValueError(rule)  # noqa: TRY004 - readers raise this one alone
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(rule) from None
        if not math.isfinite(number) or number < 0 or (number == 0 and not may_be_zero):
            raise ValueError(rule)
        return number

    return read


def optional(reader: Reader) -> Reader:
    """Make a reader that lets None through: the option is then not set."""

    def read(value: Any) -> Any:
        return None if value is None else reader(value)

    return read


def one_of(choices: tuple[str, ...]) -> Reader:
    """Make a reader of one word out of ``choices``."""

    def read(value: Any) -> str:
        word = str(getattr(value, "value", value))
        if word not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return word

    return read


def text(what: str = "text", *, may_be_empty: bool = False, max_length: int = 4096) -> Reader:
    """Make a reader of one line of text."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"it must be {what}")  # noqa: TRY004 - readers raise this one alone
        if not value.strip() and not (may_be_empty and not value):
            raise ValueError(f"it must be {what}, not nothing")
        if len(value) > max_length:
            raise ValueError(f"it must be {what} of at most {max_length} characters")
        if any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise ValueError(f"it must be {what} on one line, without control characters")
        return value

    return read


def path(value: Any) -> str:
    """Read a path, given as text or as a Path."""
    try:
        value = os.fspath(value)
    except TypeError:
        raise ValueError("it must be a path") from None
    return str(text("a path")(value))


def nproc(value: Any) -> int | str:
    """Read the number of ranks on a node."""
    if value in ("auto", "gpu", "cpu"):
        return str(value)
    if value == "xpu":
        raise ValueError("this version counts NVIDIA GPUs and CPUs only; give the number of ranks instead")
    number = _whole(value)
    if number is None or number < 1:
        raise ValueError("it must be a whole number of at least 1, or auto, gpu or cpu")
    if number > MAX_RANKS:
        raise ValueError(f"more than {MAX_RANKS} ranks on one node is surely not meant")
    return number


def nnodes(value: Any) -> str:
    """Read a number of nodes ``N``, or a range ``MIN:MAX``; ``2:2`` becomes ``2``."""
    rule = "it must be a number of nodes N of at least 1, or a range MIN:MAX of such numbers"
    parts = str(value).strip().split(":") if not isinstance(value, (bool, float)) else []
    numbers = [n for n in map(_whole, parts) if n is not None]
    if len(numbers) != len(parts) or len(numbers) not in {1, 2} or min(numbers) < 1 or max(numbers) > MAX_NODES:
        raise ValueError(rule)
    low, high = numbers[0], numbers[-1]
    if low > high:
        raise ValueError(f"the range is the wrong way round; MIN:MAX would be {high}:{low}")
    return str(low) if low == high else f"{low}:{high}"


def host(value: Any) -> str:
    """Read a host name or an IP address."""
    word = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"\[[0-9A-Fa-f:.%\w]+\]|[\w.:%-]+", word):
        raise ValueError("it must be a host name or an IP address")
    return word


def endpoint(value: Any) -> str:
    """Read ``host`` or ``host:port``, as torch reads it; an IPv6 address stands in brackets."""
    if value == "":
        return ""
    word = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::([0-9]{1,5}))?", word)
    if not match or int(match[2] or 0) > 65_535:
        raise ValueError("it must be HOST:PORT with a port from 0 to 65535 (an IPv6 address stands in brackets)")
    return word


def backend(value: Any) -> str:
    """Read the name of a rendezvous backend: torch's own, or one that a package registers."""
    if value == "":
        return ""
    found = [*BACKENDS, *(e.name for e in metadata.entry_points(group="torchrun.handlers"))]
    if value not in found:
        raise ValueError(
            f"this machine has {', '.join(found)}; a package adds others with the entry point torchrun.handlers"
        )
    return str(value)


def logs_specs(value: Any) -> str:
    """Read the name of an entry point in the group ``torchrun.logs_specs``."""
    found = [e.name for e in metadata.entry_points(group="torchrun.logs_specs")]
    if value not in found:
        raise ValueError(
            f"no installed package has an entry point torchrun.logs_specs of that name ({', '.join(found) or 'there is none'})"
        )
    return str(value)


def std(value: Any) -> str:
    """Read torch's stream settings: ``0`` to ``3``, or ``0:1,1:2`` for each local rank (a single digit)."""
    if isinstance(value, Mapping):
        value = ",".join(f"{rank}:{_whole(setting)}" for rank, setting in value.items())
    word = value if isinstance(value, str) else str(_whole(value))
    if not re.fullmatch(r"[0-3]|([0-9]:[0-3],)*[0-9]:[0-3]", word):
        raise ValueError(
            "it must be 0 (neither), 1 (stdout), 2 (stderr) or 3 (both), or such settings for local ranks as in 0:3,1:2"
        )
    return word


def std_map(word: str) -> int | dict[int, int]:
    """Take apart what ``std`` returned: one setting, or settings by local rank (as torch's Std.from_str)."""
    if ":" not in word:
        return int(word)
    return {int(rank): int(setting) for rank, setting in (part.split(":") for part in word.split(","))}


def ranks(value: Any) -> tuple[int, ...]:
    """Read a list of local ranks."""
    numbers = [_whole(item) for item in items(value)]
    if any(n is None or n < 0 for n in numbers):
        raise ValueError("it must be local ranks with commas between them, as in 0,1")
    return tuple(n for n in numbers if n is not None)


def filters(value: Any) -> tuple[str, ...]:
    """Read filter texts with commas between them; a double comma stands for a comma, as in torchrun."""
    if isinstance(value, str):
        value = [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")] if value else []
    found: list[Any] = list(value) if isinstance(value, Iterable) else [None]
    if not all(isinstance(part, str) and part for part in found):
        raise ValueError("it must be texts with commas between them (a double comma stands for a comma)")
    return tuple(found)


def names(value: Any) -> tuple[str, ...]:
    """Read Python names with commas between them."""
    found = items(value)
    if bad := [n for n in found if not n.isidentifier() or keyword.iskeyword(n)]:
        raise ValueError(f"{bad[0]!r} is not a Python name")
    return tuple(dict.fromkeys(found))


def name(value: Any) -> str:
    """Read one Python name."""
    found = names(value)
    if len(found) != 1:
        raise ValueError("it must be one Python name")
    return found[0]


def modules(value: Any) -> tuple[str, ...]:
    """Read module names with commas between them."""
    found = items(value)
    if bad := [m for m in found if not all(p.isidentifier() and not keyword.iskeyword(p) for p in m.split("."))]:
        raise ValueError(f"{bad[0]!r} is not the name of a module")
    return tuple(dict.fromkeys(found))


def gpus(value: Any) -> tuple[str, ...]:
    """Read GPU indices or UUIDs with commas between them."""
    found = items(value)
    rule = "it must be GPU indices or UUIDs with commas between them, as in 0,2 or GPU-4f3c..."
    if not all(re.fullmatch(r"[0-9]{1,4}|(GPU|MIG)-[0-9A-Za-z/-]+", g) for g in found) or (
        isinstance(value, str) and not found
    ):
        raise ValueError(rule)
    canonical = tuple(str(int(g)) if g.isdecimal() else g for g in found)
    if twice := [g for n, g in enumerate(canonical) if g in canonical[:n]]:
        raise ValueError(f"GPU {twice[0]} is named twice")
    return canonical


def signals(value: Any) -> str:
    """Read names of signals, in torch's form: with commas between them."""
    found = items(value)
    known = {s.name for s in signal.Signals} - {"SIGKILL", "SIGSTOP"}
    if bad := [s for s in found if s not in known]:
        why = "can't be handled by any process" if bad[0] in {"SIGKILL", "SIGSTOP"} else "is no signal of this system"
        raise ValueError(f"{bad[0]!r} {why}; give names such as SIGTERM,SIGINT")
    if not found:
        raise ValueError("it must be names of signals with commas between them")
    return ",".join(found)


def conf(value: Any) -> dict[str, str]:
    """Read torch's ``key=value,key=value``, or a mapping."""
    if isinstance(value, Mapping):
        return _pairs(value)
    parts = str(value).strip().split(",") if str(value).strip() else []
    found = {key.strip(): given.strip() for key, _, given in (part.partition("=") for part in parts)}
    if not all(key and given for key, given in found.items()):
        raise ValueError("it must be KEY=VALUE,KEY=VALUE")
    return found


def pair(value: Any) -> dict[str, str]:
    """Read one ``KEY=VALUE``, or a mapping."""
    if isinstance(value, Mapping):
        return _pairs(value)
    key, sign, given = value.partition("=") if isinstance(value, str) else ("", "", "")
    if not sign or not key.strip() or "\0" in value:
        raise ValueError("it must be KEY=VALUE")
    return {key.strip(): given}


def environment(value: Any) -> dict[str, str]:
    """Read one environment variable ``KEY=VALUE``, or a mapping of them."""
    found = pair(value)
    for key in found:
        if key in RESERVED_ENV:
            raise ValueError(f"the agent itself tells each rank its {key}")
        if re.search(r"\s", key):
            raise ValueError(f"{key!r} can't be the name of a variable")
    return found


def pairs_in_words(reader: Reader) -> Reader:
    """Make a reader of several ``KEY=VALUE`` in one text, as a shell would part them."""

    def read(value: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for word in [value] if isinstance(value, Mapping) else shlex.split(str(value)):
            found |= reader(word)
        return found

    return read


def engine(value: Any) -> str:
    """Read ``NAME[=SETTINGS]``: ``local``, or an engine that is installed."""
    from nb_elastic.engines import base

    if not isinstance(value, str) or "\0" in value:
        raise ValueError("it must be NAME or NAME=SETTINGS")
    name, settings = base.split(value.strip())
    if name == base.LOCAL:
        if settings or "=" in value:
            raise ValueError("the engine local has no settings")
        return name
    if name not in (known := base.names()):
        raise ValueError(f"no engine of that name is installed; there are {', '.join(known)}")
    return f"{name}={settings}" if settings else name


def items(value: Any) -> list[str]:
    """Part text at its commas, or take a list as it is; without empty items."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
        if value and not all(parts):
            raise ValueError("there is an empty item between its commas")
        return [part for part in parts if part]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return [str(item).strip() for item in value]
    return [str(value)]


def _pairs(value: Mapping[Any, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, given in value.items():
        if not isinstance(key, str) or not key.strip() or "=" in key or "\0" in key:
            raise ValueError(f"the key {key!r} must be text without '='")
        if isinstance(given, bool) or not isinstance(given, (str, int, float)) or "\0" in str(given):
            raise ValueError(f"the value of {key!r} must be text, not {type(given).__name__}")
        found[key] = str(given)
    return found


def _whole(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"[+-]?[0-9]{1,12}", value.strip(), re.ASCII) else None
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
