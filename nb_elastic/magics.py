"""The magics: ``%%elastic_launch``, ``%elastic_launch``, ``%elastic`` and ``%%elastic``.

Runs in: the kernel, or a terminal IPython.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from nb_elastic import completion, installed
from nb_elastic import options as opts
from nb_elastic.config import Elastic
from nb_elastic.engines import warm
from nb_elastic.errors import ElasticError, OptionError, PayloadError
from nb_elastic.events import Event, make
from nb_elastic.model import Entrypoint
from nb_elastic.model_options import LaunchOptions

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nb_elastic.cell import MissingName
    from nb_elastic.dashboard.monitor import Monitor
    from nb_elastic.request import Request
    from nb_elastic.run import Run
    from nb_elastic.rundir import RunDir


NO_FRAME = 1_000_000
"""Deeper than any stack: names on a magic's line are looked up in the notebook alone."""


class CellSyntaxError(ElasticError):
    """A launched cell does not compile. Shown by IPython's own hand, as for any cell, without the launcher's frames."""

    def __init__(self, message: str, shown: list[str]) -> None:
        super().__init__(message)
        self._shown = shown

    def _render_traceback_(self) -> list[str]:
        return self._shown


CellSyntaxError.__name__ = "SyntaxError"  # front ends show this name, and that is what the mistake is


@magics_class
class ElasticMagics(Magics):
    """Launches cells, functions and scripts on all local GPUs."""

    def __init__(self, shell: InteractiveShell, config: Elastic) -> None:
        super().__init__(shell=shell)
        self._ip = shell
        self._elastic_config = config
        self._monitor: Monitor | None = None

    @line_cell_magic
    def elastic_launch(self, line: str, cell: str | None = None) -> None:
        """Run the cell, or TARGET, once in every rank under PyTorch's elastic agent."""
        entered = make("mark", name="entered")
        try:
            parsed = opts.parse(
                opts.split(line),
                config=self._elastic_config.as_mapping(),
                environ=os.environ,
                target="required" if cell is None else "forbidden",
            )
        except opts.HelpRequested as asked:
            print(asked)  # noqa: T201
            return
        if cell is not None:
            request = self._cell_request(cell, parsed.options, marks=(entered, make("mark", name="parsed")))
        else:
            request = self._target_request(parsed.target, parsed.argv, parsed.options)
        if parsed.options.dry_run:
            from nb_elastic.request import dry_run_text

            print(dry_run_text(request))  # noqa: T201
            return
        self._launch(request)

    @no_var_expand
    @line_cell_magic
    def elastic(self, line: str, cell: str | None = None) -> None:
        """Look after runs: ``%elastic runs``, ``show``, ``logs``, ``attach``, ``stop``, ``stacks``, ``debug``, ``eval``, ``reap``, ``prune``, ``export``, ``doctor``, ``join``."""
        if cell is not None:
            raise OptionError(
                "%%elastic is reserved for persistent ranks, which this version does not have. Use %%elastic_launch for this cell."
            )
        from nb_elastic import cli

        first, _, rest = line.strip().partition(" ")
        # braces, quotes and dollars of an expression to be evaluated are its own
        words = [first, rest] if first == "eval" else opts.split(self._expanded(line))
        status = cli.main(words, prog="%elastic")
        if status not in {0, None}:
            raise ElasticError(f"%elastic {line} ended with status {status}.")

    def _expanded(self, line: str) -> str:
        text: str = self._ip.var_expand(line, depth=NO_FRAME)  # type: ignore[no-untyped-call]
        return text

    def open_monitor(self) -> None:
        """Let the lab panel ask this kernel for its runs; nothing outside a kernel."""
        if getattr(self._ip, "kernel", None) is None:
            return
        if self._monitor is None:
            from nb_elastic.dashboard.monitor import Monitor

            self._monitor = Monitor(stop=_stop, is_own=_is_own)
        self._monitor.open()

    def close_monitor(self) -> None:
        """The extension is unloaded."""
        if self._monitor is not None:
            self._monitor.close()

    def after_cell(self, *_: object) -> None:
        """What the notebook imports by now is imported ahead of the next launch's ranks; a closed comm is opened again."""
        self.open_monitor()
        if launcher := warm.current():
            chosen = self._elastic_config.as_mapping().get("preload")
            launcher.has_standby = bool(getattr(self._elastic_config, "standby", True))
            launcher.want(chosen or installed.wanted(self._ip.user_ns))

    def _cell_request(self, body: str, options: LaunchOptions, *, marks: tuple[Event, ...] = ()) -> Request:
        from nb_elastic import cell as cells
        from nb_elastic import notebook, payload
        from nb_elastic.request import Request

        ip = self._ip
        if not body.strip():
            raise OptionError(
                "The cell is empty: there is nothing to launch. Write code below the %%elastic_launch line."
            )
        here, offset = notebook.running_cell(ip), notebook.line_offset(ip, body)
        try:
            code = cells.analyze(
                body, label=here.label, line_offset=offset, transform=ip.transform_cell, flags=ip.compile.flags
            )
        except SyntaxError as e:
            e.filename = here.filename or here.label
            lines = notebook.raw_cell(ip).splitlines()
            if not e.text and e.lineno and e.lineno <= len(lines):
                e.text = lines[e.lineno - 1]
            raise CellSyntaxError(str(e), ip.SyntaxTB.structured_traceback(type(e), e, None)) from None
        known = notebook.sources(ip)
        if missing := cells.missing_names(code, ip.user_ns):
            raise PayloadError(_missing_text(missing, label=here.label))
        captured = make("mark", name="captured")
        packed = payload.dump_cell(code, ip.user_ns, sources=known.texts, labels=known.labels)
        return Request(
            entrypoint=Entrypoint(kind="cell", target=here.label),
            options=options,
            payload=packed,
            cell=body,
            cell_offset=offset,
            sources=known,
            marks=(*marks, captured, make("mark", name="pickled")),
        )

    def _target_request(self, target: str, argv: Sequence[str], options: LaunchOptions) -> Request:
        from nb_elastic.request import request_for

        names = self._ip.user_ns
        if not (options.module or options.no_python) and target.isidentifier() and target in names:
            if not callable(names[target]):
                raise OptionError(f"{target} is a {type(names[target]).__name__}, not a function. Nothing was started.")
            return request_for(names[target], argv, {}, options)
        return request_for(target, argv, {}, options)

    def _launch(self, request: Request) -> None:
        from nb_elastic import launching

        options = request.options

        def started(run: Run) -> None:
            if options.out:
                self._ip.user_ns[options.out] = run

        run = launching.carry_out(request, started=started)
        if options.detach:
            print(f"Run {run.id} is detached; it outlives this kernel. Follow it with: %elastic attach {run.id}")  # noqa: T201
            return
        self._pull(run, options.pull)

    def _pull(self, run: Run, names: Sequence[str]) -> None:
        found = run.pulled(names) if names else {}
        self._ip.user_ns.update(found)
        if missing := [name for name in names if name not in found]:
            raise PayloadError(
                f"--pull: rank 0 never bound {', '.join(missing)}, so nothing of that name was bound here. "
                f"The run itself succeeded; its results are in nb_elastic.last_run().results."
            )


def _stop(folder: RunDir, grace_s: float) -> None:
    from nb_elastic import launching

    launching.stop(folder, grace_s)


def _is_own(run_id: str) -> bool:
    """Whether this kernel launched a run; one that launched none has not even imported the launching."""
    launching = sys.modules.get("nb_elastic.launching")
    return launching is not None and launching.is_own(run_id)


def _missing_text(missing: Sequence[MissingName], *, label: str) -> str:
    """Say which names the cell reads that are nowhere, and what they may have been meant to be."""
    told = [
        f"{m.name!r} in line {m.line}" + (f" (did you mean {m.similar[0]!r}?)" if m.similar else "")
        for m in missing
        if not m.note
    ]
    parts = [f"{', '.join(told)}, which neither the cell nor the notebook defines"] if told else []
    parts += [f"{m.name!r} in line {m.line}, {m.note}" for m in missing if m.note]
    return f"{label} reads {'; and '.join(parts)}. Nothing was started."


def load(ip: InteractiveShell) -> None:
    """Define the magics, ``%config Elastic`` and the completion of options."""
    config = Elastic(parent=ip)
    magics = ElasticMagics(ip, config)
    launch = vars(ElasticMagics)["elastic_launch"]
    launch.__doc__ = f"{launch.__doc__.partition(chr(10))[0]}\n\n{opts.help_text()}"
    ip.register_magics(magics)
    configurables: list[Any] = ip.configurables
    configurables[:] = [*(c for c in configurables if not isinstance(c, Elastic)), config]
    completion.install(ip)
    warm.start()
    magics.open_monitor()
    ip.events.register("post_run_cell", magics.after_cell)


def unload(ip: InteractiveShell) -> None:
    """Take the magics and ``%config Elastic`` away."""
    for kind in ("line", "cell"):
        for name in ("elastic_launch", "elastic"):
            ip.magics_manager.magics[kind].pop(name, None)
    configurables: list[Any] = ip.configurables
    configurables[:] = [c for c in configurables if not isinstance(c, Elastic)]
    completion.uninstall(ip)
    if magics := ip.magics_manager.registry.pop("ElasticMagics", None):
        ip.events.unregister("post_run_cell", magics.after_cell)
        magics.close_monitor()
    warm.stop()
