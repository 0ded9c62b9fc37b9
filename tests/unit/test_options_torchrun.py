"""Our options against the installed torch: every flag of torchrun and every field of LaunchConfig, with the same meaning."""

from __future__ import annotations

import argparse
import dataclasses
import itertools

import pytest
from torch.distributed import argparse_util
from torch.distributed.elastic.multiprocessing.api import Std
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config, parse_rendezvous_endpoint
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import get_args_parser, parse_min_max_nnodes
from torch.numa.binding import AffinityMode

from nb_elastic import option_values, options
from nb_elastic.errors import OptionError
from nb_elastic.option_table import BY_STRING, TORCHRUN

ACTIONS = [a for a in get_args_parser()._actions if a.option_strings and not isinstance(a, argparse._HelpAction)]
# A value of torchrun's that we answer with a reason, instead of taking it.
REFUSED_VALUES = {("nproc_per_node", "xpu")}

# LaunchConfig's field -> the options that set it.
FIELDS = {
    "min_nodes": {"nnodes"},
    "max_nodes": {"nnodes"},
    "nproc_per_node": {"nproc_per_node"},
    "logs_specs": {"logs_specs", "log_dir", "redirects", "tee", "local_ranks_filter"},
    "run_id": {"rdzv_id"},
    "role": {"role"},
    "rdzv_endpoint": {"rdzv_endpoint", "master_addr", "master_port", "standalone"},
    "rdzv_backend": {"rdzv_backend", "standalone"},
    "rdzv_configs": {"rdzv_conf", "node_rank"},
    "rdzv_timeout": {"rdzv_conf"},  # LaunchConfig's own note: set rdzv_configs["timeout"] instead
    "max_restarts": {"max_restarts"},
    "monitor_interval": {"monitor_interval"},
    "start_method": {"start_method"},
    "log_line_prefix_template": {"log_line_prefix_template"},
    "metrics_cfg": {"metrics_cfg"},
    "local_addr": {"local_addr"},
    "event_log_handler": {"event_log_handler"},
    "numa_options": {"numa_binding"},
    "signals_to_handle": {"signals_to_handle"},
    "duplicate_stdout_filters": {"duplicate_stdout_filters"},
    "duplicate_stderr_filters": {"duplicate_stderr_filters"},
    "virtual_local_rank": {"virtual_local_rank"},
    "shutdown_timeout": {"shutdown_timeout"},
}
# What the oldest torch we support lacks.
NEWER_FIELDS = {
    "signals_to_handle",
    "duplicate_stdout_filters",
    "duplicate_stderr_filters",
    "virtual_local_rank",
    "shutdown_timeout",
}


def test_every_flag_of_the_installed_torchrun_is_ours_too():
    new = [s for a in ACTIONS for s in a.option_strings if s not in BY_STRING]
    assert new == [], f"torchrun has flags that nb_elastic's table lacks: {new}"
    assert {s: BY_STRING[s].name for a in ACTIONS for s in a.option_strings} == {
        s: a.dest for a in ACTIONS for s in a.option_strings
    }


def test_a_flag_takes_a_value_where_torchruns_does():
    assert {a.dest: BY_STRING[a.option_strings[0]].is_switch for a in ACTIONS} == {
        a.dest: a.nargs == 0 for a in ACTIONS
    }


def test_every_word_that_torchrun_offers_for_a_flag_is_taken():
    for action in ACTIONS:
        for choice in action.choices or ():
            assert BY_STRING[action.option_strings[0]].read(choice) == choice


def test_torchruns_environment_variables_are_read_for_exactly_the_flags_for_which_it_reads_them():
    theirs = {a.dest: isinstance(a, (argparse_util.env, argparse_util.check_env)) for a in ACTIONS}
    ours = {f.name: f"PET_{f.name.upper()}" in f.environ for f in TORCHRUN if f.name in theirs}
    assert ours == theirs


def test_every_field_of_launch_config_can_be_set():
    fields = {f.name for f in dataclasses.fields(LaunchConfig)}
    assert fields - set(FIELDS) == set(), "LaunchConfig has fields that no option of ours sets"
    assert set(FIELDS) - fields <= NEWER_FIELDS
    assert set().union(*FIELDS.values()) <= {f.name for f in TORCHRUN}


@pytest.mark.parametrize(
    "words",
    [
        ["--nproc-per-node", "2", "t.py", "--lr", "3"],
        ["--nproc_per_node=2", "-m", "pkg", "-m", "--", "x"],
        ["-r", "3", "-t=0:1,1:2", "-r3", "--", "t.py", "--", "-r", "1"],
        ["--standalone", "--no-python", "prog", "--standalone"],
        ["--max-restarts", "2", "--monitor_interval", "1", "--role", "r", "--shutdown-timeout", "3", "t.py"],
        ["--duplicate-stdout-filters", "a,,b,c", "--rdzv-conf", "timeout=3", "--virtual-local-rank", "t.py", "--help"],
        ["--nnodes", "2", "--node-rank", "1", "--master-addr", "h", "--master-port", "3", "t.py"],
        ["--signals-to-handle", "SIGTERM,SIGUSR1", "--numa-binding", "node", "--start-method", "fork", "t.py", ""],
        ["--run-path", "/t.py", "a b"],
    ],
)
def test_a_line_means_what_it_means_to_torchrun(words):
    if newer := NEWER_FIELDS & {w.strip("-").replace("-", "_") for w in words} - {a.dest for a in ACTIONS}:
        pytest.skip(f"this torchrun has no {newer}")
    theirs = get_args_parser().parse_args(words)
    ours = options.parse(words)
    assert (ours.target, list(ours.argv)) == (theirs.training_script, theirs.training_script_args)
    given = {a.dest for a in ACTIONS for s in a.option_strings for w in words if w.split("=")[0] == s}
    for name in given - {"rdzv_conf"}:
        mine, other = getattr(ours.options, name), getattr(theirs, name)
        assert str(list(mine) if isinstance(mine, tuple) else mine) == str(
            float(other) if isinstance(mine, float) else other
        )


def test_stream_settings_are_read_as_torch_reads_them():
    alphabet = ["0", "1", "3", "4", "9", ":", ",", "", "12", " ", "-"]
    for parts in itertools.product(alphabet, repeat=4):
        word = "".join(parts)
        try:
            theirs = Std.from_str(word)
            theirs = {k: v.value for k, v in theirs.items()} if isinstance(theirs, dict) else theirs.value
        except ValueError:
            theirs = None
        try:
            ours = option_values.std_map(option_values.std(word))
        except ValueError:
            ours = None
        assert ours == theirs, word


@pytest.mark.parametrize("value", [Std.ALL, {0: Std.OUT, 3: Std.ERR}])
def test_torchs_own_stream_settings_are_taken_as_keywords(value):
    theirs = {k: v.value for k, v in value.items()} if isinstance(value, dict) else value.value
    assert option_values.std_map(options.from_kwargs(redirects=value).redirects) == theirs


@pytest.mark.parametrize("text", ["a=1", "a=1,b=2", " a = 1 , b=x=y", "", "a", "a=", "=1", "a=1,", ","])
def test_rendezvous_settings_are_read_as_torch_reads_them(text):
    try:
        theirs = _parse_rendezvous_config(text)
    except ValueError:
        theirs = None
    try:
        ours = option_values.conf(text)
    except ValueError:
        ours = None
    assert ours == theirs


@pytest.mark.parametrize(
    "text", ["h", "h:1", "h:65535", "h:65536", "[::1]:5", "[::1]", "10.0.0.1:0", "a b", "h:", "h:x", "h:-1"]
)
def test_what_we_take_as_an_endpoint_torch_takes_too(text):
    try:
        parse_rendezvous_endpoint(text, 29400)
    except ValueError:
        with pytest.raises(ValueError, match="HOST:PORT"):
            option_values.endpoint(text)
    else:
        assert option_values.endpoint(text) == text


@pytest.mark.parametrize("text", ["1", "3", "1:4", "2:2"])
def test_node_ranges_mean_what_they_mean_to_torchrun(text):
    found = options.from_kwargs(nnodes=text, rdzv_endpoint="h:1")
    assert (found.min_nodes, found.max_nodes) == parse_min_max_nnodes(text)


def test_every_backend_that_torch_registers_can_be_asked_for():
    for name in rendezvous_handler_registry._registry:
        assert option_values.backend(name) == name


def test_every_binding_mode_of_torch_can_be_asked_for():
    for mode in AffinityMode:
        assert options.from_kwargs(numa_binding=mode).numa_binding == mode.value


def test_what_torchrun_counts_and_we_do_not_is_refused_with_a_reason():
    for name, value in REFUSED_VALUES:
        with pytest.raises(OptionError, match="this version counts NVIDIA GPUs and CPUs only"):
            options.from_kwargs(**{name: value})
