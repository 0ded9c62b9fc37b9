"""Launch options: what a user writes, where it may be written, and what each mistake is answered with."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nb_elastic import options
from nb_elastic.errors import OptionError
from nb_elastic.model_options import LaunchOptions
from nb_elastic.option_table import BY_NAME, BY_STRING, FLAGS


def parse(*words: str, **where: object) -> options.Parsed:
    return options.parse(words, **where)


def cell(*words: str, **where: object) -> LaunchOptions:
    return options.parse(words, target="forbidden", **where).options


def set_by(found: LaunchOptions) -> dict[str, object]:
    """What differs from the defaults."""
    plain = LaunchOptions()
    names = [f.name for f in dataclasses.fields(found)]
    return {n: getattr(found, n) for n in names if getattr(found, n) != getattr(plain, n)}


def refused(*words: str, **where: object) -> str:
    with pytest.raises(OptionError) as caught:
        parse(*words, **where)
    text = str(caught.value)
    assert text.endswith("Nothing was started.") and "\n" not in text
    return text


def test_every_field_of_launch_options_is_one_row_of_the_table():
    assert [flag.name for flag in FLAGS] == [f.name for f in dataclasses.fields(LaunchOptions)]


def test_the_tables_defaults_are_launch_options_own():
    assert set_by(cell()) == {}
    assert options.check(LaunchOptions()) == LaunchOptions()


WRITTEN = [
    ("-n 4", {"nproc_per_node": 4}),
    ("-n4", {"nproc_per_node": 4}),
    ("-n=4", {"nproc_per_node": 4}),
    ("--nproc 4", {"nproc_per_node": 4}),
    ("--nproc-per-node=gpu", {"nproc_per_node": "gpu"}),
    ("--nproc_per_node cpu", {"nproc_per_node": "cpu"}),
    ("-n 4096", {"nproc_per_node": 4096}),
    ("--nnodes 1:1", {}),
    ("--nnodes=1:4 --rdzv-endpoint h:29400", {"nnodes": "1:4", "rdzv_endpoint": "h:29400"}),
    (
        "--nnodes 2 --master-addr 10.0.0.1 --master-port 29500 --node-rank 1",
        {"nnodes": "2", "master_addr": "10.0.0.1", "master_port": 29500, "node_rank": 1},
    ),
    (
        "--nnodes 2 --rdzv_backend static --rdzv-endpoint [::1]:29500 --node_rank 1",
        {"nnodes": "2", "rdzv_backend": "static", "rdzv_endpoint": "[::1]:29500", "node_rank": 1},
    ),
    # torchrun's own defaults stand in for the other half: port 29500, and 127.0.0.1.
    ("--nnodes 2 --master-addr h --node-rank 1", {"nnodes": "2", "master_addr": "h", "node_rank": 1}),
    ("--nnodes 2 --master-port 3", {"nnodes": "2", "master_port": 3}),
    ("--rdzv-conf timeout=60,last_call_timeout=3", {"rdzv_conf": {"timeout": "60", "last_call_timeout": "3"}}),
    ("--standalone", {"standalone": True, "rdzv_backend": "c10d"}),
    ("--max-restarts 2 --monitor-interval 0.5", {"max_restarts": 2, "monitor_interval": 0.5}),
    ("-r 3 -t 0:1,1:2", {"redirects": "3", "tee": "0:1,1:2"}),
    ("-r3 --tee=1", {"redirects": "3", "tee": "1"}),
    ("--local-ranks-filter 0,2", {"local_ranks_filter": (0, 2)}),
    ("--duplicate-stdout-filters apple,a,,b", {"duplicate_stdout_filters": ("apple", "a,b")}),
    ("--numa-binding core-complex", {"numa_binding": "core-complex"}),
    ("--signals-to-handle SIGTERM,SIGUSR1", {"signals_to_handle": "SIGTERM,SIGUSR1"}),
    ("--shutdown-timeout 0", {"shutdown_timeout": 0}),
    ("--log-line-prefix-template '[${rank}] '", {"log_line_prefix_template": "[${rank}] "}),
    ("--metrics-cfg a=1 --metrics_cfg b=2", {"metrics_cfg": {"a": "1", "b": "2"}}),
    ("--env A=1 --env=B=x=y --env 'C=two words' --env D=", {"env": {"A": "1", "B": "x=y", "C": "two words", "D": ""}}),
    ("--out run --pull model,losses", {"out": "run", "pull": ("model", "losses")}),
    ("--gpus 0,2", {"gpus": ("0", "2")}),
    ("--gpus GPU-4f3c2d1a-0000-0000-0000-000000000000", {"gpus": ("GPU-4f3c2d1a-0000-0000-0000-000000000000",)}),
    ("--name 'my run' --timeout 1.5 --detach", {"name": "my run", "timeout": 1.5, "detach": True}),
    ("--detach=false --virtual_local_rank", {"virtual_local_rank": True}),
    ("--preload numpy,torch.nn", {"preload": ("numpy", "torch.nn")}),
    ("--render plain --engine local --on-hang tell", {"render": "plain"}),
    ("--hang-after 5 --on-hang stop", {"hang_after": 5.0, "on_hang": "stop"}),
    ("--name=--odd", {"name": "--odd"}),
    ("-n 2 -n 3", {"nproc_per_node": 3}),
]


@pytest.mark.parametrize(("line", "found"), WRITTEN, ids=[line for line, _ in WRITTEN])
def test_a_flag_may_be_written_in_every_usual_way(line, found):
    assert set_by(cell(*options.split(line))) == found


WRONG = [
    ("-n 0", "-n 0 makes no sense: it must be a whole number of at least 1, or auto, gpu or cpu."),
    ("--nproc -1", "--nproc -1 makes no sense: it must be a whole number of at least 1, or auto, gpu or cpu."),
    ("--nproc x", "--nproc x makes no sense"),
    ("--nproc 1.5", "--nproc 1.5 makes no sense"),
    ("--nproc ٣", "--nproc ٣ makes no sense"),
    ("--nproc=", "--nproc needs a value after its '=' (N)."),
    ("--nproc 10000", "--nproc 10000 makes no sense: more than 4096 ranks on one node is surely not meant."),
    ("--nproc 1" + "0" * 5000, "makes no sense: it must be"),
    ("--nproc xpu", "this version counts NVIDIA GPUs and CPUs only"),
    ("--nnodes 2:1", "--nnodes 2:1 makes no sense: the range is the wrong way round; MIN:MAX would be 1:2."),
    ("--nnodes 0", "--nnodes 0 makes no sense"),
    ("--nnodes a:b", "--nnodes a:b makes no sense"),
    ("--nnodes 1:2:3", "--nnodes 1:2:3 makes no sense"),
    ("--nnodes 1:", "--nnodes 1: makes no sense"),
    ("--nnodes 2", "--nnodes 2 needs a place where the nodes meet: --rdzv-endpoint HOST:PORT"),
    ("--nnodes 2 --rdzv-backend static", "needs --master-addr and --master-port"),
    (
        "--nnodes 1:2 --master-addr h --master-port 1",
        "The static rendezvous can't grow or shrink, as --nnodes 1:2 asks",
    ),
    ("--nnodes 2 --rdzv-endpoint h:1 --master-addr h", "both say where the nodes meet"),
    ("--nnodes 2 --rdzv-backend c10d --master-addr h --master-port 1", "--master-addr is for the static rendezvous"),
    ("--nnodes 2 --rdzv-endpoint h:1 --node-rank 1", "c10d numbers the nodes itself"),
    ("--node-rank 1", "--node-rank 1 is too high: ranks of --nnodes 1 go from 0 to 0."),
    ("--standalone --nnodes 2", "--standalone is for one node, and --nnodes 2 asks for more."),
    ("--standalone --rdzv-backend static", "--rdzv-backend static asks for another"),
    ("--standalone --rdzv-endpoint h:1", "--standalone chooses where the ranks meet by itself"),
    ("--rdzv-backend mpi", "--rdzv-backend mpi makes no sense: this machine has c10d, static, etcd, etcd-v2"),
    ("--rdzv-endpoint h:99999", "--rdzv-endpoint h:99999 makes no sense"),
    ("--rdzv-endpoint 'a b:1'", "--rdzv-endpoint a b:1 makes no sense"),
    ("--rdzv-conf timeout", "--rdzv-conf timeout makes no sense: it must be KEY=VALUE,KEY=VALUE."),
    ("--master-port 70000", "--master-port 70000 makes no sense: it must be a port, from 0 to 65535."),
    ("--max-restarts -1", "--max-restarts -1 makes no sense: it must be a whole number, at least 0."),
    ("--monitor-interval 0", "--monitor-interval 0 makes no sense: it must be a number of seconds above 0."),
    ("--monitor-interval nan", "--monitor-interval nan makes no sense"),
    ("--monitor-interval -0.1", "--monitor-interval -0.1 makes no sense"),
    ("--timeout inf", "--timeout inf makes no sense"),
    ("--shutdown-timeout -1", "--shutdown-timeout -1 makes no sense"),
    ("--start-method thread", "it must be one of warm, spawn, fork, forkserver."),
    ("--numa-binding core", "it must be one of auto, none, node, socket, exclusive, core-complex."),
    ("--render html", "it must be one of auto, widget, terminal, plain, none."),
    ("-r 4", "-r 4 makes no sense"),
    ("--tee 0:1,", "--tee 0:1, makes no sense"),
    ("--tee 10:1", "--tee 10:1 makes no sense"),
    ("--local-ranks-filter a", "--local-ranks-filter a makes no sense"),
    ("-n 2 --local-ranks-filter 2,3", "--local-ranks-filter 2,3 would show nothing: the local ranks are 0 to 1."),
    ("--logs-specs nope", "no installed package has an entry point torchrun.logs_specs of that name"),
    ("--signals-to-handle SIGFOO", "'SIGFOO' is no signal of this system"),
    ("--signals-to-handle SIGKILL", "'SIGKILL' can't be handled by any process"),
    ("--env A", "--env A makes no sense: it must be KEY=VALUE."),
    ("--env =1", "--env =1 makes no sense"),
    ("--env RANK=3", "the agent itself tells each rank its RANK"),
    ("--gpus 0,0", "GPU 0 is named twice"),
    ("--gpus 0,00", "GPU 0 is named twice"),
    ("--gpus first", "--gpus first makes no sense"),
    ("--gpus 0 --env CUDA_VISIBLE_DEVICES=1", "both choose the GPUs"),
    ("--pull 'a b'", "'a b' is not a Python name"),
    ("--pull class", "'class' is not a Python name"),
    ("--pull a --detach", "--pull and --detach contradict each other"),
    ("--out my-run", "'my-run' is not a Python name"),
    ("--out a,b", "it must be one Python name"),
    ("--preload os;rm", "'os;rm' is not the name of a module"),
    ("--name ''", "it must be a name, not nothing"),
    ("--log-dir ''", "it must be a path, not nothing"),
    ("--engine slurm --nnodes 2 --rdzv-endpoint a:1", "--rdzv-endpoint a:1 and --engine slurm contradict each other"),
    (
        "--engine slurm --nnodes 2 --node-rank 1",
        "--node-rank 1 is for nodes that are started by hand, and --engine slurm",
    ),
    ("--engine slurm --nnodes 2 --master-addr a", "--master-addr a and --engine slurm contradict each other"),
    ("--engine slurm --standalone", "--standalone is for this machine alone, and --engine slurm"),
    ("--engine slurm --rdzv-backend static", "--rdzv-backend static and --engine slurm contradict each other"),
    ("--engine slurm --nnodes 1:2 --hold", "--hold and --nnodes 1:2 contradict each other"),
    ("--engine k8s", "no engine of that name is installed; there are local, ray, slurm, dask, join"),
    ("--engine local=x", "the engine local has no settings"),
    ("--hold --max-restarts 1", "--hold and --max-restarts contradict each other"),
    ("--hang-after 0", "--hang-after 0"),
    ("--on-hang kill", "--on-hang kill"),
    ("--detach=maybe", "it is either on or off"),
    ("--name", "--name needs a value (TEXT): A name for the run"),
    ("--name --detach", "--name needs a value (TEXT), but --detach follows"),
    ("-n --", "-n needs a value (N), but -- follows"),
    ("--nprocs 2", "--nprocs is not an option of %%elastic_launch. Did you mean --nproc?"),
    ("--max_restart 2", "Abbreviations are not taken: write --max-restarts in full."),
    ("--rdzv c10d", "Did you mean --rdzv-backend or --rdzv-endpoint or --rdzv-id?"),
    ("--dettach", "Did you mean --detach?"),
    ("--zzz", "--zzz is not an option of %%elastic_launch. Its --help lists all."),
    ("-x", "-x is not an option of %%elastic_launch."),
    ("\u2013\u2013nproc 2", "begins with a typographic dash; write it with plain ones: --nproc."),
    ("-m", "--module makes no sense for %%elastic_launch: it tells what TARGET is"),
    ("--no-python", "--no-python makes no sense for %%elastic_launch"),
    ("train.py --lr 3", "'train.py' can't follow the options of %%elastic_launch: the cell itself is what runs."),
    ("-n 2 -- x", "'x' can't follow the options of %%elastic_launch"),
]


@pytest.mark.parametrize(("line", "text"), WRONG, ids=[line[:40] for line, _ in WRONG])
def test_a_mistake_is_answered_by_one_paragraph_that_names_it(line, text):
    assert text in refused(*options.split(line), target="forbidden")


def test_everything_after_the_target_belongs_to_it():
    found = parse("-n", "2", "train.py", "-n", "3", "--", "--detach", "x y", "")
    assert (set_by(found.options), found.target, found.argv) == (
        {"nproc_per_node": 2},
        "train.py",
        ("-n", "3", "--", "--detach", "x y", ""),
    )


def test_two_dashes_end_the_options_before_the_target():
    found = parse("-n", "2", "--", "-odd-name.py", "--", "-n")
    assert (found.target, found.argv) == ("-odd-name.py", ("--", "-n"))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "%elastic_launch needs a TARGET after its options"),
        ("-n 2", "needs a TARGET after its options"),
        ("-n 2 --", "needs a TARGET after its options"),
        ("''", "needs a TARGET after its options"),
        ("--no-python -m prog", "--no-python and --module contradict each other"),
        ("--run-path -m prog", "--run-path and --module contradict each other"),
        ("--run-path train.py", "--run-path needs the absolute path of a script"),
        ("--no-python --pull x ls", "--pull needs Python in rank 0"),
    ],
)
def test_a_line_without_a_fitting_target_is_refused(line, text):
    assert text in refused(*options.split(line))


@pytest.mark.parametrize("line", ["--out r t.py", "--pull x t.py", "--render widget t.py"])
def test_the_command_line_refuses_what_needs_a_notebook(line):
    assert "there is no notebook" in refused(*options.split(line), in_notebook=False)
    assert parse(*options.split(line)).target == "t.py"


def test_a_quote_left_open_is_told():
    with pytest.raises(OptionError, match="no closing quotation"):
        options.split("--name 'half")


def test_flag_beats_config_beats_environment_beats_default():
    environ = {
        "NB_ELASTIC_MAX_RESTARTS": "1",
        "NB_ELASTIC_ROLE": "env",
        "NB_ELASTIC_NAME": "env",
        "NB_ELASTIC_HOME": "/not/an/option",
    }
    config = {"max_restarts": 2, "role": "config", "timeout": None}
    assert set_by(cell("--max-restarts", "3", config=config, environ=environ)) == {
        "max_restarts": 3,
        "role": "config",
        "name": "env",
    }


def test_a_keyword_beats_config_and_environment():
    found = options.from_kwargs(nproc=3, gpus=[0, 1], config={"role": "c"}, environ={"NB_ELASTIC_NPROC_PER_NODE": "7"})
    assert set_by(found) == {"nproc_per_node": 3, "gpus": ("0", "1"), "role": "c"}


def test_torchruns_own_variables_count_below_ours_and_empty_ones_do_not():
    environ = {
        "PET_NPROC_PER_NODE": "2",
        "PET_MAX_RESTARTS": "5",
        "NB_ELASTIC_MAX_RESTARTS": "1",
        "PET_ROLE": "",
        "PET_VIRTUAL_LOCAL_RANK": "1",
        "PET_GPUS": "0",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]",
    }
    assert set_by(cell(environ=environ)) == {
        "nproc_per_node": 2,
        "max_restarts": 1,
        "virtual_local_rank": True,
        "shutdown_timeout": 7,
        "log_line_prefix_template": "[${rank}]",
    }


def test_environment_variables_for_ranks_add_up_key_by_key():
    environ = {"NB_ELASTIC_ENV": "A=1 B='x y' C=1"}
    assert cell("--env", "C=3", config={"env": {"B": "2"}}, environ=environ).env == {"A": "1", "B": "2", "C": "3"}


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (
            {"environ": {"NB_ELASTIC_NPROC_PER_NODE": "no"}},
            "The environment variable NB_ELASTIC_NPROC_PER_NODE=no makes",
        ),
        ({"environ": {"PET_NNODES": "2:1"}}, "The environment variable PET_NNODES=2:1 makes no sense"),
        ({"config": {"nproc_per_node": -3}}, "%config Elastic.nproc_per_node = -3 makes no sense"),
    ],
)
def test_a_mistake_outside_the_line_is_told_where_it_stands(where, text):
    assert text in refused("t.py", **where)


def test_standalone_on_the_line_overrides_a_cluster_in_the_environment():
    environ = {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": "head:29400", "PET_RDZV_BACKEND": "c10d"}
    assert set_by(cell("--standalone", environ=environ)) == {"standalone": True, "rdzv_backend": "c10d"}


def test_what_the_environment_says_of_targets_is_nothing_to_a_cell():
    assert set_by(cell(environ={"PET_MODULE": "1"}, config={"no_python": True})) == {}
    assert parse("pkg", environ={"PET_MODULE": "1"}).options.module is True


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"nproc_per_node": True}, "nproc_per_node=True makes no sense"),
        ({"nproc_per_node": 2.0}, "nproc_per_node=2.0 makes no sense"),
        ({"nproc_per_nod": 2}, "Abbreviations are not taken: write nproc_per_node in full."),
        ({"npro": 2}, "'npro' is not an option of a launch"),
        ({"nproc": 2, "nproc_per_node": 3}, "nproc_per_node is given twice"),
        ({"env": {"A": None}}, "the value of 'A' must be text, not NoneType"),
        ({"env": "A"}, "it must be KEY=VALUE"),
        ({"max_restarts": None}, "max_restarts=None makes no sense"),
        ({"name": 3}, "it must be a name"),
        ({"name": "a\nb"}, "on one line"),
        ({"log_dir": 3}, "it must be a path"),
        ({"duplicate_stdout_filters": 3}, "it must be texts"),
        ({"timeout": True}, "it must be a number of seconds above 0"),
    ],
)
def test_a_wrong_keyword_is_refused_by_name(given, text):
    with pytest.raises(OptionError) as caught:
        options.from_kwargs(**given)
    assert text in str(caught.value)


class OddRepr:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (OddRepr(), "nproc=<OddRepr> makes"),
        ("1\n2", "nproc='1\\n2' makes"),
        ([0] * 999, "nproc=[0, 0, "),
        ("x" * 9999, "xxx... makes"),
    ],
)
def test_a_message_stays_one_short_paragraph_whatever_the_value(value, shown):
    with pytest.raises(OptionError) as caught:
        options.from_kwargs(nproc=value)
    assert shown in str(caught.value) and len(str(caught.value)) < 400


def test_keywords_take_pythons_own_types(tmp_path):
    found = options.from_kwargs(
        log_dir=tmp_path,
        env={"A": 1, "B": "x"},
        redirects={0: 1, 1: 2},
        tee=3,
        local_ranks_filter=[0],
        pull=["a", "a"],
        timeout=5,
    )
    assert set_by(found) == {
        "log_dir": os.fspath(tmp_path),
        "env": {"A": "1", "B": "x"},
        "redirects": "0:1,1:2",
        "tee": "3",
        "local_ranks_filter": (0,),
        "pull": ("a",),
        "timeout": 5.0,
    }


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (LaunchOptions(nproc_per_node=0), "nproc_per_node=0 makes no sense"),
        (LaunchOptions(max_restarts=False), "max_restarts=False makes no sense"),
        (LaunchOptions(nnodes="3:2"), "wrong way round"),
        (LaunchOptions(nnodes="2"), "needs a place where the nodes meet"),
        (LaunchOptions(on_hang="kill"), "on_hang='kill' makes no sense"),
    ],
)
def test_options_made_by_hand_are_checked_as_flags_are(made, text):
    with pytest.raises(OptionError) as caught:
        options.check(made)
    assert text in str(caught.value)


def test_options_made_by_hand_come_back_in_the_form_that_flags_give():
    made = LaunchOptions(gpus=[1], nproc_per_node="2", nnodes="1:1", env={"A": 1})
    assert set_by(options.check(made)) == {"gpus": ("1",), "nproc_per_node": 2, "env": {"A": "1"}}


@pytest.mark.parametrize("target", ["required", "forbidden"])
@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_text_not_an_exit(word, target):
    with pytest.raises(options.HelpRequested) as caught:
        options.parse([word], target=target)
    assert caught.value.text.startswith("usage: %")


def test_help_after_the_target_is_the_targets():
    assert parse("train.py", "--help").argv == ("--help",)


def test_help_names_every_flag_and_gives_the_reason_of_each_different_default():
    text = " ".join(options.help_text().split())
    assert [f.dashed for f in FLAGS if f"{f.dashed}" not in text] == []
    assert [f.name for f in FLAGS if f.reason and f"({f.reason})" not in text] == []
    theirs, _, ours = options.help_text().partition("Options of nb_elastic:")
    assert [f.name for f in FLAGS if f"\n  {f.dashed}" not in (ours if f.is_ours else theirs)] == []
    assert {"max_restarts", "nproc_per_node", "rdzv_backend", "numa_binding", "start_method"} <= {
        f.name for f in FLAGS if f.reason
    }


COMPLETED = [
    ("%%elastic_launch --np", ["--nproc", "--nproc-per-node"]),
    ("%%elastic_launch --nproc_", ["--nproc_per_node"]),
    ("%elastic_launch -n 2 --rend", ["--render"]),
    ("%elastic_launch --render w", ["widget"]),
    ("%elastic_launch --render=w", ["--render=widget"]),
    ("%elastic_launch --numa-binding ", ["auto", "none", "node", "socket", "exclusive", "core-complex"]),
    ("%elastic_launch --start_method s", ["spawn"]),
    ("%elastic_launch -n ", ["auto", "gpu", "cpu"]),
    ("%elastic_launch --no-", ["--no-python"]),
    ("%%elastic_launch --no-", []),
    ("%elastic_launch --hol", ["--hold"]),
    ("%elastic_launch train.py --np", []),
    ("%elastic_launch -- --np", []),
    ("%elastic_launch tr", []),
    ("%elastic_launch --name tr", []),
    ("%elastic_launc", []),
    ("%timeit --np", []),
    ("", []),
]


@pytest.mark.parametrize(("line", "found"), COMPLETED)
def test_a_flag_and_its_words_complete(line, found):
    assert options.complete(line) == found


def test_no_option_is_called_home_since_that_variable_is_taken():
    assert "home" not in BY_NAME


def test_reading_options_loads_neither_torch_nor_the_front_end():
    code = (
        "import sys; from nb_elastic import options; options.parse(['-n', '2', 't.py']); options.help_text();"
        "print(sorted({'torch', 'IPython', 'traitlets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


WORDS = st.one_of(
    st.sampled_from(
        [*BY_STRING, "--", "-", "=", "--=", "-n=", "--env=A=1", "t.py", "0", "1:2", "c10d", "h:1", "SIGTERM"]
    ),
    st.text(max_size=8),
    st.integers().map(str),
    st.builds("{}={}".format, st.sampled_from(sorted(BY_STRING)), st.text(max_size=8)),
)
THINGS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4), st.just(object()), st.complex_numbers(),
    st.lists(st.one_of(st.text(max_size=4), st.integers(), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), st.one_of(st.text(max_size=3), st.integers(), st.none()), max_size=2),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(words=st.lists(WORDS, max_size=5), target=st.sampled_from(["required", "forbidden"]), in_notebook=st.booleans())
def test_no_line_whatsoever_does_more_than_name_its_mistake(words, target, in_notebook):
    try:
        found = options.parse(words, target=target, in_notebook=in_notebook)
    except (OptionError, options.HelpRequested) as e:
        assert str(e)
    else:
        assert options.check(found.options) == found.options


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(sorted(BY_NAME)), value=THINGS)
def test_no_keyword_value_whatsoever_does_more_than_name_its_mistake(name, value):
    try:
        found = options.from_kwargs(**{name: value})
    except OptionError as e:
        assert name in str(e) or name.replace("_", "-") in str(e)
    else:
        assert options.check(found) == found


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_completion_takes_any_line(text):
    assert isinstance(options.complete("%elastic_launch " + text), list)
