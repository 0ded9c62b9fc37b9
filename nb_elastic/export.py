"""A run as a script plus its ``torchrun`` line, from what run.json says was asked.

Runs in: the kernel or command line.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from nb_elastic import export_source, option_rules, option_table
from nb_elastic.export_source import Code, Needed
from nb_elastic.model import from_json
from nb_elastic.model_options import LaunchOptions

NOT_TORCHRUNS = {
    "timeout": "stop the run after so many seconds",
    "metrics_cfg": "settings of torch's elastic metrics",
    "pull": "bind rank 0's variables in the notebook",
}
"""Options without a flag of torchrun, and what they do."""
NOT_FLAGS = {"nnodes", "standalone", "nproc_per_node", "log_line_prefix_template", "module", "no_python", "run_path"}
"""Options of torchrun that the line tells in another way."""
NO_COUNTERPART = (("start_method", "warm"), ("numa_binding", "auto"), ("numa_binding", "none"))
"""Values that torchrun does not know; it does nothing instead."""
SHELL = """\
# The code uses magics or !commands: this is what runs them outside a notebook.
from IPython.core.interactiveshell import InteractiveShell

get_ipython = InteractiveShell.instance
"""


def script(asked: Mapping[str, Any]) -> str:
    """Write what the ranks ran as a script that torchrun can start.

    The script holds the cell (or the call of the function), before it the notebook's functions, classes,
    imports and plain constants that it uses, and on top a note for each piece of captured data: that was
    the notebook's, and no source can stand for it.

    Args:
        asked: content of run.json.

    Raises:
        ElasticError: if the run's cell is no valid code.
    """
    entry = asked.get("entry") or {}
    kind, target = str(entry.get("kind", "")), str(entry.get("target", ""))
    head = f'"""Exported from the run {asked.get("run_id", "?")} of nb_elastic."""\n'
    if kind in {"script", "module", "program"}:
        return f"{head}\n# That run started the {kind} {target}: there is nothing to export but its torchrun line.\n"
    if kind == "import":
        module, _, name = target.partition(":")
        return f"{head}\nimport sys\n\nfrom {module} import {name.partition('.')[0]}\n\n{name}(*sys.argv[1:])\n"
    sources = {str(k): str(v) for k, v in dict(asked.get("sources") or {}).items()}
    if kind == "function":
        body = export_source.parse(f"{target}(*sys.argv[1:])" if target.replace(".", "").isidentifier() else "pass")
        start = {target.partition(".")[0]}
    else:
        body = export_source.parse(str(asked.get("cell", "")))
        start = set(export_source.names_read(body.tree))
    needed = export_source.needed(start, sources)
    if kind == "function" and not start <= needed.found:
        text = f"The source of {target} is not known: it was no function at the top level of a cell."
        return f"{head}\nraise SystemExit({text!r})\n"
    return _assembled(head, asked, body, needed, is_function=kind == "function")


def torchrun_line(asked: Mapping[str, Any], script_path: str) -> str:
    """Write the command that starts the same with plain torchrun.

    Args:
        asked: content of run.json.
        script_path: where the text of ``script`` lies; not used where the run had a script of its own.
    """
    entry, options = asked.get("entry") or {}, _options(asked)
    kind = str(entry.get("kind", ""))
    shape = {"module": ["--module"], "program": ["--no-python"]}.get(kind, ["--run-path"] if options.run_path else [])
    what = str(entry.get("target", "")) if kind in {"script", "module", "program"} else script_path
    words = ["torchrun", *_flags(options), *shape, what, *(str(a) for a in entry.get("argv") or ())]
    return " ".join([*(f"{key}={shlex.quote(value)}" for key, value in _variables(options).items()), shlex.join(words)])


def _assembled(head: str, asked: Mapping[str, Any], body: Code, needed: Needed, *, is_function: bool) -> str:
    parts = [head, _notes(asked, needed)]
    if futures := sorted(needed.futures | body.futures):
        parts.append(f"from __future__ import {', '.join(futures)}\n")
    if body.needs_shell or needed.needs_shell:
        parts.append(SHELL)
    imports = ["import sys"] if is_function else []
    parts.append("\n".join(dict.fromkeys([*imports, *needed.imports])))
    parts += [f"\n{text}\n" for text in needed.texts]
    parts.append(f"\n{_run_async(body.tree) if body.is_async else body.text.strip()}\n")
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(part for part in parts if part)).rstrip() + "\n"


def _options(asked: Mapping[str, Any]) -> LaunchOptions:
    given = dict(asked.get("options") or {})
    if not isinstance(given.get("env"), Mapping):
        given["env"] = {}  # a run folder keeps the names alone, since values may be secrets
    return from_json(LaunchOptions, given)


def _flags(options: LaunchOptions) -> list[str]:
    """Flags for what differs from torchrun's own defaults."""
    words = [f"--nnodes={options.nnodes}", f"--nproc-per-node={options.nproc_per_node}"]
    left_out = NOT_FLAGS | set(NOT_TORCHRUNS)
    if options.is_one_node:
        words[0] = "--standalone"
        left_out |= {"rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf", "node_rank", "master_addr", "master_port"}
    elif not options.rdzv_backend:
        words.append(f"--rdzv-backend={option_rules.backend(options)}")
    plain = option_table.defaults()
    for flag in option_table.TORCHRUN:
        value = getattr(options, flag.name)
        if flag.name in left_out or value == plain[flag.name] or (flag.name, value) in NO_COUNTERPART:
            continue
        words.append(flag.dashed if flag.is_switch else f"{flag.dashed}={_text(value)}")
    return words


def _variables(options: LaunchOptions) -> dict[str, str]:
    found = dict(options.env)
    if options.gpus:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(options.gpus)
    if options.log_line_prefix_template is not None:
        found["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = options.log_line_prefix_template
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={given}" for key, given in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(item).replace(",", ",,") for item in value)
    return str(value)


def _notes(asked: Mapping[str, Any], needed: Needed) -> str:
    """Comment lines on what the script can't hold."""
    captured = [c for c in asked.get("captured") or () if c.get("type_name") != "module"]
    data = [c for c in captured if str(c.get("name")) not in needed.found]
    lines: list[str] = []
    if data:
        lines.append("# Data of the notebook. It has no source: load or make it here, before it is used.")
    for piece in data:
        name = str(piece.get("name"))
        lines.append(f"#   {name}: {piece.get('type_name')}, {int(piece.get('size_bytes') or 0):,} bytes")
        if origin := needed.origins.get(name):
            lines.append(f"#     {origin.label} bound it with:")
            lines += [f"#         {line}" for line in origin.text.splitlines()[:8]]
    options, plain = _options(asked), LaunchOptions()
    env = (asked.get("options") or {}).get("env") or ()
    if env and not isinstance(env, Mapping):
        lines.append(f"# The ranks had these environment variables from --env: {', '.join(sorted(env))}.")
    for name, does in NOT_TORCHRUNS.items():
        if getattr(options, name) != getattr(plain, name):
            lines.append(f"# torchrun has no --{name.replace('_', '-')} ({does}).")
    if "OMP_NUM_THREADS" not in env:
        lines.append("# torchrun sets OMP_NUM_THREADS=1 in each rank; nb_elastic shares the CPUs out among them.")
    return "\n".join([*lines, ""]) if lines else ""


def _run_async(tree: ast.Module) -> str:
    """The code inside a coroutine whose names stay the script's own."""
    names = sorted(export_source.names_bound(tree))
    wrapped = ast.parse("async def _cell():\n    pass")
    wrapped.body[0].body = [*([ast.Global(names)] if names else []), *tree.body]  # type: ignore[attr-defined]
    function = ast.unparse(ast.fix_missing_locations(wrapped))
    return f"import asyncio\n\n\n{function}\n\n\nasyncio.run(_cell())"
