"""Help, suggestions and completion of launch options, all from the table.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable
from typing import Any

from nb_elastic import option_table
from nb_elastic.option_table import ABOUT_TARGET, BY_STRING, FLAGS, OURS, TORCHRUN, Flag

MAGICS = ("%%elastic_launch", "%elastic_launch")
_USAGE = {
    "cell": "%%elastic_launch [options]\n\nRun this cell in every rank of a worker group, in fresh processes, under PyTorch's elastic agent.",
    "line": "%elastic_launch [options] TARGET [ARGS...]\n\nRun TARGET in every rank of a worker group: a function of the notebook, "
    "package.module:function, a script,\na module with -m, or with --no-python any program. ARGS go to TARGET untouched.",
    "command": "nb-elastic run [options] TARGET [ARGS...]\n\nRun TARGET in every rank of a worker group: package.module:function, a script, "
    "a module with -m,\nor with --no-python any program. ARGS go to TARGET untouched.",
    "python": "nb_elastic.launch(fn, *args, **options)\n\nRun fn(*args) in every rank of a worker group. Options go by their Python names.",
}


class HelpRequested(Exception):  # noqa: N818 - it is no error
    """Somebody asked for help instead of a launch.

    Attributes:
        text: the help.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def help_text(form: str = "line") -> str:
    """Help on all options, torchrun's and ours apart, with each different default's reason."""
    parts = [f"usage: {_USAGE[form]}", ""]
    parts += _group("Options as torchrun has them:", TORCHRUN, form)
    parts += _group("Options of nb_elastic:", OURS, form)
    parts.append(
        "Flags are written with dashes or underscores, as --flag VALUE or --flag=VALUE. Precedence: flag, then\n"
        "%config Elastic.<option>, then the environment (NB_ELASTIC_<OPTION>; for torchrun's options also its own\n"
        "PET_<OPTION>), then the default."
    )
    return "\n".join(parts)


def option_help(flag: Flag) -> str:
    """One option's meaning and default in one paragraph."""
    if not flag.is_in_version:
        return f"{flag.help} Not in this version."
    default = option_table.defaults()[flag.name]
    shown = f" Default: {default_text(default)}" if not flag.is_switch and default not in ("", (), {}, None) else ""
    reason = f" ({flag.reason})" if flag.reason else ""
    if reason and not shown:
        shown = " Default: chosen by itself"
    return f"{flag.help}{shown}{reason}{'.' if shown else ''}"


def default_text(value: Any) -> str:
    """A value as a user would write it after a flag."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known words, led by a space; empty where nothing is close."""
    plain = word.lower().replace("_", "-").rstrip("-")
    by_plain = {k.replace("_", "-"): k for k in known}
    longer = [k for p, k in by_plain.items() if len(plain.strip("-")) > 1 and p.startswith(plain)]
    if len(longer) == 1:
        return f" Abbreviations are not taken: write {longer[0]} in full."
    close = longer[:3] or [by_plain[p] for p in difflib.get_close_matches(plain, by_plain, n=2, cutoff=0.7)]
    return f" Did you mean {' or '.join(close)}?" if close else ""


def complete(text: str) -> list[str]:
    """Complete the last word of a magic's line.

    Args:
        text: the line up to the cursor, from its magic on.

    Returns:
        Candidates for the whole last word (the text after the last blank); empty where the
        word is no option's, so that others may complete it.
    """
    head, before, word = _words(text)
    is_cell = head == MAGICS[0]
    if not head or not _is_among_options(before, is_cell=is_cell):
        return []
    written, sign, value = word.partition("=")
    if sign:
        flag = BY_STRING.get(written)
        return [f"{written}={choice}" for choice in _choices(flag) if choice.startswith(value)] if flag else []
    if flag := _waiting(before):
        return [choice for choice in _choices(flag) if choice.startswith(word)]
    if word and not word.startswith("-"):
        return []
    offered = [f for f in FLAGS if f.is_in_version and not (is_cell and f.name in ABOUT_TARGET)]
    position = 1 if "_" in word else 0
    strings = [
        s for f in offered for s in (f.strings[min(position, len(f.strings) - 1)], *f.aliases) if s.startswith("--")
    ]
    return sorted({s for s in [*strings, "--help"] if s.startswith(word)})


def is_target_next(text: str) -> bool:
    """True where the last word of a magic's line may be its TARGET."""
    head, before, word = _words(text)
    if not head or head == MAGICS[0] or word.startswith("-"):
        return False
    return before[-1:] == ["--"] or (_is_among_options(before, is_cell=False) and _waiting(before) is None)


def _words(text: str) -> tuple[str, list[str], str]:
    """The magic (empty if it is none of ours), the whole words after it, and the one being typed."""
    head, *words = text.lstrip().split(" ")
    if head not in MAGICS or not words:
        return "", [], ""
    return head, [w for w in words[:-1] if w], words[-1]


def _waiting(before: list[str]) -> Flag | None:
    """The flag that the next word is the value of."""
    flag = BY_STRING.get(before[-1]) if before else None
    return None if flag is None or flag.is_switch else flag


def _choices(flag: Flag | None) -> tuple[str, ...]:
    return () if flag is None else flag.choices


def _is_among_options(before: list[str], *, is_cell: bool) -> bool:
    """True when no TARGET has come yet."""
    needs_value = False
    for word in before:
        if needs_value:
            needs_value = False
            continue
        if word == "--" or not word.startswith("-"):
            return is_cell and word != "--"
        flag = BY_STRING.get(word)
        needs_value = flag is not None and not flag.is_switch
    return True


def _group(title: str, flags: tuple[Flag, ...], form: str) -> list[str]:
    lines = [title]
    for flag in flags:
        if form == "cell" and flag.name in ABOUT_TARGET:
            continue
        value = f" {flag.metavar}" if flag.metavar else ""
        strings = ", ".join((*flag.strings[:1], *flag.aliases, *((flag.short,) if flag.short else ())))
        lines.append(f"  {strings if form != 'python' else flag.name}{value if form != 'python' else ''}")
        choices = f" One of {', '.join(flag.choices)}." if flag.choices else ""
        lines += textwrap.wrap(option_help(flag) + choices, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [*lines, ""]
