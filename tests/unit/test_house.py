"""The plan of the house holds: floors look down only, foreign packages have one door, files stay small.

A user would lose: a notebook that starts at once (the kernel side never imports torch), ranks that fork
safely (workers never import the front end), and later versions (a plan that nobody keeps can't grow).
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nb_elastic"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

# Which floor a module stands on; it may use modules of its own floor and of those below.
FLOORS = {
    0: "ambient errors killing knell lifeline machine model nvml opening private sealed seals spans steady sysfs tokens",
    1: "birth debugwire events installed logreader reap rundir sight snapshot stacks topology untrusted wakes wire",
    2: "payload cell frames binding report pools outputs rankstacks rankflight",
    3: "worker holding entry afresh rankshell supervisor launcher",
    4: "options option config export doctor notebook engines driver node dashboard render report_text report_words report_failure report_nodes",
    5: "debugging follower run request completion",
    6: "launching",
    7: "magics cli",
    8: "__main__",
}
# A module cut in parts stands where its first word does: payload_pickler is payload's. The package itself only names things,
# and imports each when it is asked for.
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}

# What runs where, by the first word after `nb_elastic.`; `supervisor` and `worker` processes load these and what they import.
RANK_SIDE = ("nb_elastic.supervisor.__main__", "nb_elastic.launcher", "nb_elastic.worker")
KERNEL_SIDE = (
    "nb_elastic", "nb_elastic.magics", "nb_elastic.cli", "nb_elastic.launching", "nb_elastic.run", "nb_elastic.doctor", "nb_elastic.export",
    "nb_elastic.render.choose", "nb_elastic.render.plain", "nb_elastic.render.terminal", "nb_elastic.render.widget", "nb_elastic.render.html",
    "nb_elastic.engines.local", "nb_elastic.engines.driven", "nb_elastic.dashboard.panel", "nb_elastic.dashboard.monitor",
    "nb_elastic.driver.__main__",
)  # fmt: skip

# The doors of foreign packages: package -> the only modules that may import it.
DOORS = {
    "cloudpickle": {"nb_elastic.payload_pickler"},
    "distributed": {"nb_elastic.engines.dask"},
    "ray": {"nb_elastic.engines.ray"},
    "rich": {"nb_elastic.render.terminal"},
    "ipywidgets": set(),
    "anywidget": {"nb_elastic.render.widget"},
    "traitlets": {"nb_elastic.config", "nb_elastic.rankshell", "nb_elastic.render.widget"},
    "setproctitle": {"nb_elastic.worker"},
    "psutil": {"nb_elastic.supervisor.standby"},
}
MAX_LINES = {"file": 400, "class": 250, "function": 60}
NAMES_THAT_SAY_NOTHING = {
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
    "manager",
    "managers",
    "handler",
    "handlers",
    "misc",
}


@functools.cache
def imports(name: str, *, is_late_too: bool = True) -> tuple[tuple[str, int], ...]:
    """(module, line) of what a module imports when it runs; what only annotations need is left out."""
    return tuple(_imports(name, is_late_too=is_late_too))


def _imports(name: str, *, is_late_too: bool) -> Iterator[tuple[str, int]]:
    queue: list[ast.AST] = [TREES[name]]
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue.extend(node.orelse)
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not is_late_too:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if FILES[name].name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in FILES else base), node.lineno
        queue.extend(ast.iter_child_nodes(node))


def reachable(starts: tuple[str, ...], *, but_not: tuple[str, ...] = (), is_late_too: bool = True) -> dict[str, str]:
    """Our modules that the starts load, each with the one that led there."""
    came_from = {start: "" for start in starts if start in FILES}
    queue = list(came_from)
    while queue:
        name = queue.pop(0)
        # The package itself only names things: what it loads late depends on who asks.
        for target, _line in imports(name, is_late_too=is_late_too and name != "nb_elastic"):
            if target in FILES and target not in came_from and target not in but_not:
                came_from[target] = name
                queue.append(target)
    return came_from


def floor_of(module: str) -> int | None:
    """Floor of a module, by its own name or its folder's."""
    if "." not in module:
        return max(FLOORS)
    name = module.split(".")[1]
    return FLOOR_OF.get(name, FLOOR_OF.get(name.split("_")[0]))


@pytest.mark.parametrize("name", FILES)
def test_a_module_says_what_it_owns_and_where_it_runs(name):
    text = ast.get_docstring(TREES[name]) or ""
    if FILES[name].name == "__init__.py" and not TREES[name].body[1:]:
        assert text, "an empty package says what its folder holds"
        return
    assert text, "a module opens with one sentence on what it owns"
    assert "Runs in:" in text


@pytest.mark.parametrize("name", FILES)
def test_files_classes_and_functions_stay_small(name):
    found = [("file", name, len(FILES[name].read_text().splitlines()))]
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            found.append((kind, node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
    assert [f for f in found if f[2] > MAX_LINES[f[0]]] == []


@pytest.mark.parametrize("name", FILES)
def test_a_module_has_a_name_that_says_something(name):
    assert not NAMES_THAT_SAY_NOTHING & set(name.split("."))


@pytest.mark.parametrize("name", FILES)
def test_floors_look_down_only(name):
    own = floor_of(name)
    assert own is not None, f"{name} stands on no floor: give it one in FLOORS"
    up = [
        f"line {line}: {target} (floor {floor_of(target)}, this is {own})"
        for target, line in imports(name, is_late_too=name != "nb_elastic")
        if target in FILES and target != "nb_elastic" and (floor_of(target) or 0) > own
    ]
    assert up == []


def test_no_circles():
    """Not even through imports inside functions: a circle is two modules that are one."""
    seen: dict[str, int] = {}
    circles: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if seen.get(name) == 1:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
        if name in seen:
            return
        seen[name] = 1
        for target, _line in imports(name):
            if target in FILES and target not in {"nb_elastic", name}:
                visit(target, (*path, name))
        seen[name] = 2

    for name in FILES:
        if name != "nb_elastic":
            visit(name, ())
    assert circles == []


def test_the_kernel_side_never_imports_torch():
    guilty = {
        f"{name} line {line}"
        for name in reachable(KERNEL_SIDE)
        for target, line in imports(name)
        if target.split(".")[0] == "torch"
    }
    assert guilty == set()


def test_a_node_program_never_imports_torch():
    """It is started on each node, and must be heard of in a moment; what it starts imports torch."""
    guilty = {
        f"{name} line {line}"
        for name in reachable(("nb_elastic.node.__main__",))
        for target, line in imports(name)
        if target.split(".")[0] == "torch"
    }
    assert guilty == set()


def test_supervisor_and_workers_never_import_the_front_end():
    """rankshell alone may: it is loaded late, in a rank whose cell uses magics."""
    loaded = reachable(RANK_SIDE, but_not=("nb_elastic.rankshell",))
    guilty = {
        f"{name} line {line} ({target})"
        for name in loaded
        for target, line in imports(name)
        if target.split(".")[0] in {"IPython", "ipywidgets", "ipykernel", "rich"}
        or target.startswith("nb_elastic.render")
    }
    assert guilty == set()


@pytest.mark.parametrize("package", DOORS)
def test_a_foreign_package_has_one_door(package):
    users = {name for name in FILES for target, _line in imports(name) if target.split(".")[0] == package}
    assert users <= DOORS[package]


# Who may turn bytes into objects, which runs code: payload's loader, of files that `opening` opened, and the rendezvous,
# which hands torch a pickle that it made itself a line before.
UNPICKLERS = {
    "nb_elastic.payload": {"Loader"},
    "nb_elastic.payload_pickler": {"pickle.Unpickler"},
    "nb_elastic.payload_result": {"Loader"},
    "nb_elastic.supervisor.rendezvous_sealed": {"pickle.loads"},
}
UNPICKLING = {"Loader", "Unpickler", "loads", "load"}
"""Names that unpickle, of these modules: pickle, cloudpickle, torch, joblib, dill, marshal, shelve, numpy, pandas; and our own."""
FROM = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "torch",
    "joblib",
    "dill",
    "marshal",
    "shelve",
    "numpy",
    "np",
    "pandas",
}


def unpickling(name: str) -> set[str]:
    """What a module names that unpickles."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in FROM:
            found |= {f"{node.value.id}.{node.attr}"} & {
                f"{m}.{a}" for m in FROM for a in (*UNPICKLING, "open", "read_pickle")
            }
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FROM:
            found |= {alias.name for alias in node.names if alias.name in {*UNPICKLING, "read_pickle"}}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Loader":
            found.add("Loader")
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_unpickled_but_payloads_and_results(name):
    """A pickle runs code: kernel, command line and dashboards load one only where the user asks for a result."""
    assert unpickling(name) == UNPICKLERS.get(name, set())


def test_results_are_loaded_only_where_the_user_asked_for_them():
    """`run.result`, `.results` and `.pulled`: no face, list or reducer may do it by the way."""
    callers = {
        name
        for name in FILES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute) and node.attr == "load_result"
    }
    assert callers == {"nb_elastic.run"}


def test_processes_name_each_other_by_text_not_by_import():
    """Importing another process's entry would load its world into this one."""
    entries = {"nb_elastic.supervisor.__main__", "nb_elastic.__main__", "nb_elastic.node.__main__"}
    guilty = {f"{name} line {line}" for name in FILES for target, line in imports(name) if target in entries}
    assert guilty == set()


@pytest.mark.parametrize("name", FILES)
def test_only_command_line_magics_and_the_plain_renderer_print(name):
    if name in {"nb_elastic.cli", "nb_elastic.magics", "nb_elastic.render.plain"}:
        return
    prints = [n for n in ast.walk(TREES[name]) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
    assert [n.lineno for n in prints if not any(k.arg == "file" for k in n.keywords)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda p: p.name)
def test_tests_wait_for_conditions_and_never_sleep(path):
    sleeps = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
    ]
    assert sleeps == []


def test_importing_the_package_stays_cheap():
    """Neither torch nor the front end: the contract's first promise to a notebook."""
    code = "import sys, nb_elastic; print(sorted({'torch', 'IPython', 'ipywidgets', 'rich', 'numpy', 'cloudpickle'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_the_launcher_imports_torch_only_when_it_is_told_to():
    """Else it would do so at full priority, and nobody would know which variables that read."""
    code = "import sys, nb_elastic.launcher, nb_elastic.supervisor.forkserver\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n"
