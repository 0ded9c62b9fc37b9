"""The subcommands ``debug`` and ``eval``: pdb on a held rank, and a look at it.

Runs in: the command line, or the kernel (``%elastic debug``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from nb_elastic import debugging, report_words, rundir, snapshot
from nb_elastic.debugging_line import GoneError, HeldRank
from nb_elastic.errors import ElasticError, OptionError
from nb_elastic.run import Run, attach
from nb_elastic.rundir import RunDir

USAGE = "eval [--run RUN] [--rank R | --all] EXPR"
END_S = 15.0
MIN_PREFIX = 6
"""A shorter first word is part of the expression, whatever run's id begins so."""

EXIT_FAILED = 1


@dataclass(slots=True, kw_only=True)
class _Look:
    """What ``eval`` is to look at."""

    run: str = ""
    rank: int | None = None
    is_all: bool = False
    expression: str = ""


def debug(arguments: argparse.Namespace) -> int:
    """Open pdb on a held rank."""
    run = _newest_held(arguments.run)
    held = debugging.choose(RunDir(run.dir), run.snapshot, arguments.rank)
    if not debugging.can_ask():
        raise ElasticError(
            f"Nobody can answer pdb here. `{report_words.command()} eval EXPR` looks at rank {held.rank} without asking back."
        )
    return talk(run, held)


def talk(run: Run, held: HeldRank) -> int:
    """Speak to pdb on a held rank, and see to it that the group is whole afterwards: held, running on, or ended."""
    command = report_words.command()
    debugging.show(f"Rank {held.rank} is held: {held.text}\n")
    kept = f"Rank {held.rank} stays held: `{command} debug {run.id} --rank {held.rank}` comes back, `{command} stop {run.id}` ends the run.\n"
    try:
        outcome = debugging.converse(held, write=debugging.show)
    except KeyboardInterrupt:
        is_held = any(h.rank == held.rank for h in debugging.held_ranks(RunDir(run.dir), run.snapshot))
        debugging.show("\n" + (kept if is_held else f"Left; rank {held.rank} runs on.\n"))
        return 0
    except GoneError:
        state = run.wait(1.0)
        debugging.show(f"\nRank {held.rank} went on, or ended; run {run.id} is {state.value}.\n")
        return 0
    except NotImplementedError as e:
        raise ElasticError("This front end can't answer pdb. `%elastic eval EXPR` looks without asking back.") from e
    if outcome == "left":
        debugging.show(kept)
    elif outcome == "quit":
        if held.why == "breakpoint":
            run.stop(by="debugger")
        state = run.wait(END_S)
        debugging.show(f"Run {run.id} is {state.value}.\n")
    return 0


def evaluate(words: Sequence[str]) -> int:
    """Print an expression's value in a held rank.

    Args:
        words: what follows ``eval``; where it is one word, that is split here, so that quotes and spaces are the expression's own.
    """
    wanted = _read(" ".join(words))
    run = _newest_held(wanted.run)
    folder, now = RunDir(run.dir), run.snapshot
    if not wanted.is_all:
        debugging.show(debugging.look(debugging.choose(folder, now, wanted.rank), wanted.expression) + "\n")
        return 0
    debugging.choose(folder, now)
    has_failed = False
    for held in debugging.held_ranks(folder, now):
        try:
            text = debugging.look(held, wanted.expression)
            debugging.show(f"[rank {held.rank}] {text}\n")
        except ElasticError as e:
            has_failed = True
            debugging.show(f"[rank {held.rank}] {str(e).removeprefix(f'Rank {held.rank}: ')}\n")
    return EXIT_FAILED if has_failed else 0


def _newest_held(wanted: str) -> Run:
    """The run that is meant; without a word, the newest that has held ranks, else the newest of all."""
    if wanted:
        return attach(wanted)
    for folder in rundir.all_runs():
        now = snapshot.load(folder)
        if not now.state.is_final and debugging.held_ranks(folder, now):
            return attach(folder.run_id)
    return attach("")


def _read(line: str) -> _Look:
    """Read the options before the expression; a first word that names a run, and can't be part of it, is RUN."""
    wanted, rest = _Look(), line.strip()
    while rest.startswith("--"):
        word, _, rest = rest.partition(" ")
        rest = rest.strip()
        name, sign, value = word.partition("=")
        if name == "--all" and not sign:
            wanted.is_all = True
            continue
        if name not in {"--run", "--rank"}:
            raise OptionError(f"{name} is no option of eval. Usage: {USAGE}")
        if not sign:
            value, _, rest = rest.partition(" ")
            rest = rest.strip()
        if name == "--run":
            wanted.run = value
        elif value.isdecimal():
            wanted.rank = int(value)
        else:
            raise OptionError(f"--rank {value}: give a rank, 0 or more. Usage: {USAGE}")
    first, _, more = rest.partition(" ")
    if not wanted.run and more.strip() and not _is_expression(rest) and _names_run(first):
        options = _read(more)
        wanted.run, rest = first, options.expression
        wanted.rank = options.rank if options.rank is not None else wanted.rank
        wanted.is_all |= options.is_all
    if not rest:
        raise OptionError(f"eval needs an expression. Usage: {USAGE}")
    wanted.expression = rest
    return wanted


def _is_expression(text: str) -> bool:
    try:
        compile(text, "<eval>", "eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _names_run(word: str) -> bool:
    for run in rundir.all_runs():
        is_prefix = len(word) >= MIN_PREFIX and run.run_id.startswith(word)
        if is_prefix or word in {run.run_id, rundir.read_json(run.run_json).get("name")}:
            return True
    return False
