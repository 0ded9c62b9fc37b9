"""The one table of launch options: flag, meaning, default with its reason, and how it is read.

Runs in: the kernel or command line. Magic, command line, ``launch()``, ``%config Elastic``,
``NB_ELASTIC_*`` variables, help and completion are all made from it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

from nb_elastic import option_values as values
from nb_elastic.model_options import NUMA_MODES, RENDER_MODES, START_METHODS, LaunchOptions
from nb_elastic.option_values import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of a launch.

    Attributes:
        name: its field in LaunchOptions.
        read: turns text or a Python value into the field's form; raises ValueError with the rule.
        metavar: how help names its value; empty for a switch.
        choices: words that completion offers.
        is_ours: False for what torchrun has, too.
        reason: why its default differs from torchrun's; empty where it does not.
        environ: variables read after ``NB_ELASTIC_<NAME>``: those torchrun itself reads.
        is_repeatable: each use adds to the ones before.
        is_in_version: False for options that a later version brings; any use is refused.
    """

    name: str
    read: Reader
    help: str
    metavar: str = ""
    short: str = ""
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    is_ours: bool = False
    reason: str = ""
    environ: tuple[str, ...] = ()
    is_repeatable: bool = False
    is_in_version: bool = True

    @property
    def is_switch(self) -> bool:
        """True for a flag without a value."""
        return not self.metavar

    @property
    def dashed(self) -> str:
        """The flag as help shows it, such as ``--nproc-per-node``."""
        return "--" + self.name.replace("_", "-")

    @property
    def strings(self) -> tuple[str, ...]:
        """Every way to write the flag."""
        underscored = "--" + self.name
        both = (self.dashed,) if underscored == self.dashed else (self.dashed, underscored)
        return (*both, *self.aliases, *((self.short,) if self.short else ()))

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables that set it, the first one found counts."""
        return (f"NB_ELASTIC_{self.name.upper()}", *self.environ)


def _torchrun(
    name: str, read: Reader, text: str, metavar: str = "", *environ: str, pet: bool = True, **more: Any
) -> Flag:
    names = ((f"PET_{name.upper()}",) if pet else ()) + environ
    return Flag(name=name, read=read, help=text, metavar=metavar, environ=names, **more)


def _ours(name: str, read: Reader, text: str, metavar: str = "", **more: Any) -> Flag:
    return Flag(name=name, read=read, help=text, metavar=metavar, is_ours=True, **more)


TORCHRUN: tuple[Flag, ...] = (
    _torchrun(
        "nproc_per_node",
        values.nproc,
        "Ranks on each node: a number, gpu (one for each GPU), cpu (one for each CPU) or auto.",
        "N",
        short="-n",
        aliases=("--nproc",),
        choices=("auto", "gpu", "cpu"),
        reason="torchrun starts 1; a notebook wants the whole machine: all GPUs, else the CPUs' number",
    ),
    _torchrun(
        "nnodes",
        values.nnodes,
        "Nodes of the run, or a range between which it may grow and shrink.",
        "MIN:MAX",
        reason="one node never waits for another",
    ),
    _torchrun("node_rank", values.whole(0, values.MAX_NODES), "Rank of this node, for the static rendezvous.", "K"),
    _torchrun(
        "rdzv_backend",
        values.backend,
        "How nodes find each other.",
        "NAME",
        choices=values.BACKENDS,
        reason="one node meets on loopback, on a port the system chose; several nodes use c10d, or static with --master-addr",
    ),
    _torchrun("rdzv_endpoint", values.endpoint, "Where nodes meet.", "HOST:PORT"),
    _torchrun(
        "rdzv_id",
        values.text("a name", may_be_empty=True, max_length=200),
        "Name of the run that its nodes share.",
        "ID",
        reason="a name of its own for every run keeps runs apart",
    ),
    _torchrun("rdzv_conf", values.conf, "Further settings of the rendezvous.", "K=V,K=V"),
    _torchrun("standalone", values.switch, "One node with a c10d rendezvous of its own."),
    _torchrun(
        "master_addr",
        lambda v: "" if v == "" else values.host(v),
        "Address of node 0, for the static rendezvous; 127.0.0.1 where --master-port is given alone.",
        "HOST",
    ),
    _torchrun(
        "master_port",
        values.optional(values.whole(0, 65_535, what="a port")),
        "Port of node 0, for the static rendezvous; 29500 where --master-addr is given alone.",
        "PORT",
    ),
    _torchrun("local_addr", values.optional(values.host), "Address by which other nodes reach this one.", "HOST"),
    _torchrun(
        "max_restarts",
        values.whole(0),
        "How often a failed group is started again.",
        "N",
        reason="LaunchConfig's is 3: a typo must not run four times",
    ),
    _torchrun("monitor_interval", values.seconds(may_be_zero=False), "Seconds between two looks at the ranks.", "S"),
    _torchrun(
        "start_method",
        values.one_of(START_METHODS),
        "How ranks are started.",
        "METHOD",
        choices=START_METHODS,
        reason="warm forks from a process that has imported torch already: seconds sooner than spawn",
    ),
    _torchrun("role", values.text("a name", max_length=200), "Role of the ranks, seen in ROLE_NAME.", "NAME"),
    _torchrun("module", values.switch, "TARGET is a module, as in python -m.", short="-m"),
    _torchrun("no_python", values.switch, "TARGET is a program to start as it is."),
    _torchrun(
        "run_path", values.switch, "TARGET is a script, run inside the rank's interpreter; its path is absolute."
    ),
    _torchrun(
        "log_dir", values.optional(values.path), "Folder for the run's folder.", "DIR", reason="the home of all runs"
    ),
    _torchrun(
        "redirects",
        values.std,
        "Streams kept out of the cell's output: 1 stdout, 2 stderr, 3 both, or 0:3,1:2 by local rank. Files always get all.",
        "STD",
        short="-r",
        choices=("0", "1", "2", "3"),
    ),
    _torchrun(
        "tee",
        values.std,
        "Streams shown in the output and kept in files; same form as --redirects.",
        "STD",
        short="-t",
        choices=("0", "1", "2", "3"),
    ),
    _torchrun("local_ranks_filter", values.ranks, "Show the output of these local ranks only.", "R,R"),
    _torchrun(
        "duplicate_stdout_filters",
        values.filters,
        "Copy stdout lines with one of these texts to a file of their own.",
        "TEXT,TEXT",
    ),
    _torchrun(
        "duplicate_stderr_filters",
        values.filters,
        "Copy stderr lines with one of these texts to a file of their own.",
        "TEXT,TEXT",
    ),
    _torchrun(
        "logs_specs", values.optional(values.logs_specs), "Entry point torchrun.logs_specs to use.", "NAME", pet=False
    ),
    _torchrun(
        "log_line_prefix_template",
        values.optional(values.text("a template", may_be_empty=True)),
        "Prefix of a line in the copies that --duplicate-stdout-filters makes; knows ${role_name}, ${rank} and ${local_rank}.",
        "TEXT",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE",
        pet=False,
    ),
    _torchrun(
        "event_log_handler",
        values.text("a name"),
        "Handler of torch's elastic events.",
        "NAME",
        choices=("null", "console"),
    ),
    _torchrun(
        "metrics_cfg",
        values.pair,
        "Setting of torch's elastic metrics; repeatable.",
        "K=V",
        pet=False,
        is_repeatable=True,
    ),
    _torchrun(
        "numa_binding",
        values.one_of(NUMA_MODES),
        "Bind each rank to CPUs near its GPU.",
        "MODE",
        pet=False,
        choices=NUMA_MODES,
        reason="torchrun's is off; auto binds where the machine has several NUMA nodes and the GPUs' nodes are known, else says that it did not",
    ),
    _torchrun("signals_to_handle", values.signals, "Signals that stop the run.", "SIG,SIG"),
    _torchrun(
        "shutdown_timeout",
        values.whole(0),
        "Seconds that ranks have to end before SIGKILL.",
        "S",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
    ),
    _torchrun("virtual_local_rank", values.switch, "Every rank sees LOCAL_RANK 0 and its own GPU as device 0."),
)

OURS: tuple[Flag, ...] = (
    _ours("out", values.optional(values.name), "Bind the run to this name in the notebook.", "NAME"),
    _ours("pull", values.names, "After success, bind rank 0's variables of these names in the notebook.", "NAMES"),
    _ours("gpus", values.gpus, "GPUs to use, by index or UUID.", "0,2"),
    _ours("env", values.environment, "Environment variable for the ranks; repeatable.", "K=V", is_repeatable=True),
    _ours("name", values.optional(values.text("a name", max_length=200)), "A name for the run, to find it by.", "TEXT"),
    _ours("timeout", values.optional(values.seconds(may_be_zero=False)), "Stop the run after so many seconds.", "S"),
    _ours(
        "detach",
        values.switch,
        "Return at once; the run outlives the kernel, its server and the terminal (but no service manager that ends all it started).",
    ),
    _ours(
        "preload",
        values.modules,
        "Modules imported ahead of the ranks; by default the installed ones that the notebook imports.",
        "MODULES",
    ),
    _ours("render", values.one_of(RENDER_MODES), "How the run is shown.", "MODE", choices=RENDER_MODES),
    _ours("hold", values.switch, "A failed group stays for `debug`: each failed rank waits at its exception."),
    _ours(
        "hang_after",
        values.optional(values.seconds(may_be_zero=False)),
        "Seconds for which no rank tells anything, comes to another line or gets on with a collective, until the run counts as "
        "hanging: then it is told where each rank stands, and who waits for whom; the same where only some ranks stand still. 60 where "
        "nothing is given.",
        "S",
    ),
    _ours(
        "on_hang",
        values.one_of(("tell", "stop")),
        "What to do about a hanging run: tell, or stop it, so that it fails. Where a rank computes all the while, and on several "
        "nodes, it is stopped after five times as long.",
        "DO",
        choices=("tell", "stop"),
    ),
    _ours("hide_values", values.switch, "Do not show the values of variables where a rank failed."),
    _ours("dry_run", values.switch, "Print what would be captured, started and bound; start nothing."),
    _ours(
        "engine",
        values.engine,
        "Who places the run on nodes: this machine (local), Ray, Slurm, Dask, machines that join by hand, or an engine that is "
        "installed beside them. SETTINGS are the engine's own, as in ray=ADDRESS.",
        "NAME[=SETTINGS]",
        choices=("local", "ray", "slurm", "dask", "join"),
    ),
)

FLAGS: tuple[Flag, ...] = TORCHRUN + OURS
BY_NAME: dict[str, Flag] = {flag.name: flag for flag in FLAGS}
BY_STRING: dict[str, Flag] = {string: flag for flag in FLAGS for string in flag.strings}
ABOUT_TARGET = ("module", "no_python", "run_path")
"""Options that say what TARGET is, so they mean nothing where there is none."""


def defaults() -> dict[str, Any]:
    """Every option's default; ``spawn`` where the system can't start warm ranks."""
    plain = LaunchOptions()
    found = {f.name: getattr(plain, f.name) for f in fields(LaunchOptions)}
    if not sys.platform.startswith("linux"):
        found["start_method"] = "spawn"
    return found
