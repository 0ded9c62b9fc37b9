"""From words, keywords, configuration and environment to one checked LaunchOptions.

Runs in: the kernel or command line.

Precedence, for each option by itself: what is said at the launch (flag or keyword), then
``%config Elastic.<option>``, then the environment, then the default. In the environment
``NB_ELASTIC_<OPTION>`` comes first; where it is not set, torchrun's own ``PET_<OPTION>`` counts for
torchrun's flags, so that a machine prepared for torchrun works here, too. An empty variable is no
variable. ``--env`` and ``--metrics-cfg`` add up, key by key, in the same precedence; everything
else replaces.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nb_elastic import option_rules, option_table
from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.option_help import HelpRequested, complete, did_you_mean, help_text
from nb_elastic.option_table import ABOUT_TARGET, BY_NAME, BY_STRING, FLAGS, Flag
from nb_elastic.option_values import pairs_in_words

__all__ = [
    "FLAGS",
    "HelpRequested",
    "LaunchOptions",
    "Parsed",
    "check",
    "complete",
    "from_kwargs",
    "help_text",
    "names",
    "parse",
    "split",
]

Form = Literal["cell", "line", "command", "python"]
"""Where a launch is asked for: %%elastic_launch, %elastic_launch, nb-elastic run, nb_elastic.launch()."""

MAX_SHOWN = 160
"""Most characters of a value that a message repeats."""

TYPOGRAPHIC_DASHES = ("\u2013", "\u2014")
"""What word processors make of a flag's dashes."""

KEYWORDS = {"nproc": "nproc_per_node"}
"""Short names of options as keywords."""

PROG: dict[str, str] = {
    "cell": "%%elastic_launch",
    "line": "%elastic_launch",
    "command": "nb-elastic run",
    "python": "nb_elastic.launch()",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A launch as it was asked for.

    Attributes:
        target: what to run; empty in the cell form.
        argv: everything after it, untouched.
    """

    options: LaunchOptions
    target: str = ""
    argv: tuple[str, ...] = ()


def names() -> frozenset[str]:
    """Python names of all options, short ones included."""
    return frozenset(BY_NAME) | frozenset(KEYWORDS)


def split(line: str) -> list[str]:
    """Part a magic's line into words as a shell would.

    Raises:
        OptionError: if a quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as e:
        raise OptionError(
            f"The line {line.strip()!r} can't be parted into words: {str(e).lower()}. Nothing was started."
        ) from None


def parse(
    argv: Sequence[str],
    *,
    config: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    target: Literal["required", "forbidden"] = "required",
    in_notebook: bool = True,
) -> Parsed:
    """Read the words of a magic's line or of the command line.

    Reading stops at TARGET: everything after it belongs to TARGET, a ``--`` included. A ``--`` before
    it ends the options.

    Args:
        argv: words after the command.
        config: values of ``%config Elastic`` that are set, by Python name.
        environ: environment to read options from; None reads none.
        target: ``forbidden`` for a cell, which is itself what runs.
        in_notebook: False for the command line, where there are no names to bind.

    Raises:
        OptionError: naming flag and value; nothing was started.
        HelpRequested: for ``-h`` and ``--help``; carries the text.
    """
    form: Form = "cell" if target == "forbidden" else "line" if in_notebook else "command"
    given, rest = _read_words(list(argv), form)
    options = _settle(given, config, environ, form)
    if form == "cell":
        if rest:
            raise OptionError(
                f"{rest[0]!r} can't follow the options of %%elastic_launch: the cell itself is what runs. "
                f"For a script, module or function use the line form: %elastic_launch {shlex.join(rest)}. Nothing was started."
            )
        return Parsed(options=options)
    if not rest or not rest[0].strip():
        raise OptionError(
            f"{PROG[form]} needs a TARGET after its options: a function, package.module:function, a script, -m MODULE, "
            "or --no-python PROGRAM. Nothing was started."
        )
    option_rules.check_target(options, rest[0])
    return Parsed(options=options, target=rest[0], argv=tuple(rest[1:]))


def from_kwargs(
    *, config: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None, **given: Any
) -> LaunchOptions:
    """Make options from keywords by their Python names, over configuration and environment.

    Raises:
        OptionError: naming keyword and value.
    """
    level: dict[str, Any] = {}
    for name, value in given.items():
        flag = BY_NAME.get(KEYWORDS.get(name, name))
        if flag is None:
            raise OptionError(
                f"{name!r} is not an option of a launch.{did_you_mean(name, BY_NAME)} Nothing was started."
            )
        if flag.name in level:
            raise OptionError(f"{flag.name} is given twice, also as {name}. Nothing was started.")
        level[flag.name] = _read(flag, value, f"{name}={_shown(value)}")
    return _settle(level, config, environ, "python")


def check(options: LaunchOptions) -> LaunchOptions:
    """Check options that were made by hand; return them in the form that ``parse`` would give.

    Raises:
        OptionError: naming field and value.
    """
    found: dict[str, Any] = {}
    plain = option_table.defaults()
    for flag in FLAGS:
        value = getattr(options, flag.name)
        is_plain = type(value) is type(plain[flag.name]) and value == plain[flag.name]
        found[flag.name] = value if is_plain else _read(flag, value, f"{flag.name}={_shown(value)}")
    checked = LaunchOptions(**found)
    option_rules.check_together(checked)
    return checked


def _settle(
    given: dict[str, Any], config: Mapping[str, Any] | None, environ: Mapping[str, str] | None, form: Form
) -> LaunchOptions:
    found = option_table.defaults()
    is_target_known = form in {"cell", "python"}
    for level in (_environment(environ or {}), _configuration(config or {}), given):
        below = {k: v for k, v in level.items() if level is given or not (is_target_known and k in ABOUT_TARGET)}
        if below.get("standalone"):
            plain = option_table.defaults()
            found |= {name: plain[name] for name in option_rules.SET_BY_STANDALONE}
        for name, value in below.items():
            found[name] = {**found[name], **value} if BY_NAME[name].is_repeatable else value
    if form == "command":
        # There is no notebook to bind names in, nor to draw a widget in, whatever the environment says.
        found |= {"out": None, "pull": ()} | ({"render": "auto"} if found["render"] == "widget" else {})
    if found["standalone"] and not found["rdzv_backend"]:
        found["rdzv_backend"] = "c10d"
    options = LaunchOptions(**found)
    option_rules.check_together(options)
    return options


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    level: dict[str, Any] = {}
    for flag in FLAGS:
        for variable in flag.variables:
            if text := environ.get(variable, ""):
                level[flag.name] = _read(
                    flag, text, f"The environment variable {variable}={_one_line(text)}", from_environment=True
                )
                break
    return level


def _configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _read(BY_NAME[name], value, f"%config Elastic.{name} = {_shown(value)}")
        for name, value in config.items()
        if name in BY_NAME and value is not None
    }


def _read(flag: Flag, value: Any, where: str, *, from_environment: bool = False) -> Any:
    reader = pairs_in_words(flag.read) if from_environment and flag.is_repeatable else flag.read
    try:
        found = reader(value)
    except ValueError as e:
        raise OptionError(f"{where} makes no sense: {e}. Nothing was started.") from None
    if not flag.is_in_version and found != option_table.defaults()[flag.name]:
        raise OptionError(f"{where} is not in this version: {flag.dashed} comes with a later one. Nothing was started.")
    return found


def _shown(value: Any) -> str:
    """A value in one line, cut where it is long; its own repr may raise."""
    try:
        return _one_line(repr(value))
    except Exception:  # noqa: BLE001 - the border to the user's own class, whose repr is not our matter
        return f"<{type(value).__name__}>"


def _one_line(words: str) -> str:
    if "\n" in words:
        words = " ".join(words.split())
    return words if len(words) <= MAX_SHOWN else f"{words[:MAX_SHOWN]}..."


def _read_words(words: list[str], form: Form) -> tuple[dict[str, Any], list[str]]:
    """Read flags up to the first word that is none; return what was given and the rest."""
    given: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return given, words[position + 1 :]
        if not word.startswith(("-", *TYPOGRAPHIC_DASHES)) or word == "-":
            break
        if word in {"-h", "--help"}:
            raise HelpRequested(help_text(form))
        flag, value, used = _read_flag(words, position, form)
        position += used
        found = _read(flag, value, _one_line(" ".join(words[position - used : position])))
        _refuse_where_senseless(flag, found, form)
        given[flag.name] = given.get(flag.name, {}) | found if flag.is_repeatable else found
    return given, words[position:]


def _read_flag(words: list[str], position: int, form: Form) -> tuple[Flag, Any, int]:
    """Return the flag at ``position``, its value, and how many words both took."""
    word = words[position]
    written, sign, value = word.partition("=")
    flag = BY_STRING.get(written)
    if flag is None and not word.startswith("--") and (flag := BY_STRING.get(word[:2])):
        written, sign, value = word[:2], "=", word[2:]
    if flag is None or (flag.is_switch and written == flag.short and sign):
        raise OptionError(_unknown(written, word, form))
    if flag.is_switch:
        return flag, value if sign else True, 1
    if sign:
        if not value and flag.name != "log_line_prefix_template":
            raise OptionError(f"{written} needs a value after its '=' ({flag.metavar}). Nothing was started.")
        return flag, value, 1
    if position + 1 == len(words):
        raise OptionError(f"{written} needs a value ({flag.metavar}): {flag.help} Nothing was started.")
    value = words[position + 1]
    if value == "--" or value.partition("=")[0] in BY_STRING or value.startswith("--"):
        raise OptionError(
            f"{written} needs a value ({flag.metavar}), but {value} follows. A value that starts with a dash "
            f"is written {written}=VALUE. Nothing was started."
        )
    return flag, value, 2


def _unknown(written: str, word: str, form: Form) -> str:
    if word.startswith(TYPOGRAPHIC_DASHES):
        return f"{word} begins with a typographic dash; write it with plain ones: --{word.lstrip(''.join(TYPOGRAPHIC_DASHES) + '-')}. Nothing was started."
    known = [s for s in BY_STRING if s.startswith("--") and "_" not in s]
    return f"{written} is not an option of {PROG[form]}.{did_you_mean(written, known)} Its --help lists all. Nothing was started."


def _refuse_where_senseless(flag: Flag, value: Any, form: Form) -> None:
    if form == "cell" and flag.name in ABOUT_TARGET and value:
        raise OptionError(
            f"{flag.dashed} makes no sense for %%elastic_launch: it tells what TARGET is, and here the cell itself runs. "
            "Use the line form, %elastic_launch. Nothing was started."
        )
    if form == "command" and flag.name in {"out", "pull"}:
        raise OptionError(
            f"{flag.dashed} makes no sense on the command line: there is no notebook to bind names in. Nothing was started."
        )
    if form == "command" and flag.name == "render" and value == "widget":
        raise OptionError(
            "--render widget makes no sense on the command line: there is no notebook to show it in. Nothing was started."
        )
