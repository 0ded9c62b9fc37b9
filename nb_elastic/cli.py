"""The command line ``nb-elastic``, whose subcommands are also ``%elastic``'s.

Runs in: the command line, or the kernel (``%elastic``).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from nb_elastic import cli_debug, cli_join, rundir, sight, snapshot
from nb_elastic.errors import ElasticError, OptionError, RunLostError, RunStoppedError
from nb_elastic.lifeline import HeldInterrupts
from nb_elastic.model import STREAMS
from nb_elastic.model_options import LaunchOptions
from nb_elastic.report_words import first_line
from nb_elastic.run import attach, remove, runs
from nb_elastic.snapshot import RunSnapshot

COMMAND = "nb-elastic"
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{self.prog}: {message}. `{self.prog} --help` lists what there is.")


def main(argv: Sequence[str] | None = None, *, prog: str = COMMAND) -> int:
    """Run one subcommand.

    Returns:
        Exit status: 0 done, 1 the run or the command failed, 2 wrong usage, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["run"] and prog == COMMAND:
            return _run(words[1:])
        if words[:1] == ["eval"] and not {"-h", "--help"} & set(words[1:2]):
            return cli_debug.evaluate(words[1:])
        arguments = _parser(prog).parse_args(words)
        action: Callable[[argparse.Namespace], int] = arguments.action
        return action(arguments)
    except OptionError as e:
        return _refuse(e, prog, EXIT_USAGE)
    except RunStoppedError as e:
        return _refuse(e, prog, EXIT_INTERRUPTED)
    except ElasticError as e:
        return _refuse(e, prog, EXIT_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        if prog != COMMAND:
            raise
        return EXIT_INTERRUPTED
    except SystemExit as e:
        return int(e.code or 0)


def _refuse(error: ElasticError, prog: str, status: int) -> int:
    """In a notebook errors are raised; on a command line they are text and a status."""
    if prog != COMMAND:
        raise error
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return status


def _parser(prog: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        description="Look after nb_elastic's runs. RUN is an id, a unique prefix, a name, or nothing for the newest.",
    )
    commands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True, parser_class=_Parser)

    def add(name: str, action: Callable[[argparse.Namespace], int], text: str, *, takes_run: bool = True) -> _Parser:
        sub: _Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if takes_run:
            sub.add_argument("run", nargs="?", default="", metavar="RUN")
        sub.set_defaults(action=action, prog=prog)
        return sub

    if prog == COMMAND:
        add("run", _run_help, "launch TARGET: nb-elastic run [options] TARGET [ARGS...]", takes_run=False)
    add("runs", _runs, "list the runs of this machine, newest first", takes_run=False)
    add("show", _show, "show a live or finished run from its folder alone")
    add(
        "attach",
        _attach,
        "show a run and follow it to its end, which is then this command's; Ctrl-C stops following, not the run",
    )
    logs = add("logs", _logs, "print logs")
    logs.add_argument("--rank", type=int)
    logs.add_argument("--node", type=int, metavar="K", help="only ranks on this node, by its number in `show`")
    logs.add_argument("--stream", choices=STREAMS)
    logs.add_argument("-n", type=int, metavar="N", help="only the last N lines of each file")
    logs.add_argument("--follow", action="store_true")
    logs.add_argument("--grep", metavar="RE", help="only lines in which the regular expression is found")
    stop = add("stop", _stop, "stop a run")
    stop.add_argument(
        "--grace", type=float, default=5.0, metavar="S", help="seconds between SIGINT and SIGTERM (default 5)"
    )
    stacks = add("stacks", _stacks, "Python stacks of all ranks, equal ones grouped, the odd one first")
    stacks.add_argument("--rank", type=int, metavar="R", help="only this rank")
    debug = add("debug", cli_debug.debug, "pdb on a rank held at its exception or breakpoint")
    debug.add_argument("--rank", type=int, help="which one (default: the root cause's, else the lowest held)")
    look = add("eval", lambda _: 0, "an expression's value in a held rank", takes_run=False)
    look.usage = f"{prog} {cli_debug.USAGE}"
    prune = add("prune", _prune, "delete old finished runs", takes_run=False)
    prune.add_argument("--keep", type=int, default=20, metavar="N", help="how many of the newest to keep (default 20)")
    cli_join.add_arguments(add("join", _join, cli_join.TEXT, takes_run=False))
    add("doctor", _doctor, "check this machine", takes_run=False)
    reap = add("reap", _reap, "end what a crashed run left behind, proven by pid and start time", takes_run=False)
    reap.add_argument("--dry-run", action="store_true", help="tell what would be ended; end nothing")
    export = add("export", _export, "write the cell as a script plus its torchrun line")
    export.add_argument("--to", metavar="FILE", help="write the script there instead of printing it")
    return parser


def _run(words: Sequence[str]) -> int:
    from nb_elastic import launching, lifeline, reap
    from nb_elastic import options as opts
    from nb_elastic.request import dry_run_text, request_for

    try:
        parsed = opts.parse(words, environ=os.environ, in_notebook=False)
    except opts.HelpRequested as asked:
        print(asked)
        return 0
    _check_hold(parsed.options)
    request = request_for(parsed.target, parsed.argv, {}, parsed.options)
    if parsed.options.dry_run:
        print(dry_run_text(request))
        return 0
    lifeline.become_subreaper()
    try:
        run = launching.carry_out(request)
    except RunLostError:
        reap.end_below()
        raise
    if parsed.options.detach:
        print(run.id)
    return 0


def _check_hold(options: LaunchOptions) -> None:
    from nb_elastic import debugging

    if options.hold and not options.detach and not options.dry_run and not debugging.can_ask():
        raise OptionError(
            "--hold needs a terminal here: pdb asks, and nobody would answer. With --detach the group is held until "
            "`nb-elastic debug` or `stop`. Nothing was started."
        )


def _run_help(_: argparse.Namespace) -> int:
    return _run(["--help"])


def _runs(_: argparse.Namespace) -> int:
    rows = [("RUN", "NAME", "STATE", "RANKS", "AGE", "WHERE")]
    for run in runs():
        now = snapshot.load(rundir.RunDir(run.dir))
        ranks = f"{now.world_size or now.nproc or '?'}{_nodes(now)}"
        rows.append((run.id, first_line(now.name) or "-", _state(now), ranks, _age(now), str(run.dir)))
    if len(rows) == 1:
        print(f"No runs in {rundir.home()}.")
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from nb_elastic.render.choose import show

    show(rundir.RunDir(attach(arguments.run).dir))
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    """Take the place of the launching cell, or command: the same view, and the same end."""
    from nb_elastic.render.choose import choose

    run = attach(arguments.run)
    try:
        with HeldInterrupts() as held:
            renderer = choose(
                "auto",
                run=rundir.RunDir(run.dir),
                on_stop=lambda grace_s: run.stop(grace_s, by="dashboard"),
                has_report=False,
            )
            run.follow(renderer, held=held)
    except KeyboardInterrupt:
        if run.state.is_final:
            raise
        print(f"Stopped following; run {run.id} goes on. `{arguments.prog} stop {run.id}` ends it.")
        return EXIT_INTERRUPTED if arguments.prog == COMMAND else 0
    run.raise_for_state()
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from nb_elastic.cli_logs import LogPrinter, Wanted

    if arguments.n is not None and arguments.n < 0:
        raise OptionError(f"-n {arguments.n}: give the number of lines, 0 or more.")
    asked = {"rank": arguments.rank, "node": arguments.node, "stream": arguments.stream, "count": arguments.n}
    wanted = Wanted(**asked, pattern=_pattern(arguments.grep))
    printer = LogPrinter(rundir.RunDir(attach(arguments.run).dir), wanted)
    printer.print_existing()
    if arguments.follow:
        try:
            printer.follow()
        except KeyboardInterrupt:
            return 0
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    run = attach(arguments.run)
    if run.wait(0).is_final:
        print(f"Run {run.id} is already {run.state.value}.")
        return 0
    run.stop(arguments.grace, by="command")
    state = run.wait(arguments.grace + 10)
    print(f"Run {run.id} is {state.value}.")
    return 0 if state.is_final else EXIT_FAILED


def _stacks(arguments: argparse.Namespace) -> int:
    from nb_elastic import cli_stacks

    print(cli_stacks.text_of(rundir.RunDir(attach(arguments.run).dir), rank=arguments.rank))
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    if arguments.keep < 0:
        raise OptionError(f"--keep {arguments.keep}: give the number of runs to keep, 0 or more. Nothing was deleted.")
    removed = 0
    for run in runs()[arguments.keep :]:
        if snapshot.load(rundir.RunDir(run.dir)).state.is_final:
            remove(run)
            removed += 1
    print(f"Deleted {removed} finished run(s); kept the newest {arguments.keep}.")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from nb_elastic import doctor

    checks = doctor.check()
    print(doctor.text(checks))
    return EXIT_FAILED if any(c.state == "bad" for c in checks) else 0


def _join(arguments: argparse.Namespace) -> int:
    return cli_join.join(arguments, tell=lambda line: print(line, flush=True), is_command=arguments.prog == COMMAND)


def _reap(arguments: argparse.Namespace) -> int:
    from nb_elastic.cli_reap import reap_all

    print(reap_all(is_dry=arguments.dry_run))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from nb_elastic import export

    run = attach(arguments.run)
    asked = rundir.read_json(rundir.RunDir(run.dir).run_json, max_bytes=64 << 20)
    script = export.script(asked)
    path = Path(arguments.to) if arguments.to else Path(f"{run.id}.py")
    if arguments.to:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(script)
        except OSError as e:
            raise ElasticError(f"--to {path} can't be written: {e.strerror or e}. Choose another name.") from e
        print(f"Wrote {path}. Run it with:\n{export.torchrun_line(asked, str(path))}")
    else:
        print(f"{script.rstrip()}\n\n# {export.torchrun_line(asked, str(path))}")
    return 0


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as e:
        raise OptionError(f"--grep {text!r} is not a regular expression: {e}.") from e


def _nodes(now: RunSnapshot) -> str:
    """On how many nodes the ranks are, where a run has any to tell apart."""
    count = len({w.node for w in now.workers} | {n.node for n in now.nodes if n.is_here})
    return f" on {count} node{'' if count == 1 else 's'}" if now.nodes else ""


def _state(now: RunSnapshot) -> str:
    """The state in a word or two; of a run that can't be looked for from here it is only known that it was so."""
    words = f"{now.state.value}, held" if now.held and not now.state.is_final else now.state.value
    return words if now.state.is_final or sight.is_under_our_kernel(now) else f"{words} on {now.host}"


def _age(now: RunSnapshot) -> str:
    if not now.created_ns:
        return "?"
    seconds = max(0, (time.time_ns() - now.created_ns) // 1_000_000_000)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
