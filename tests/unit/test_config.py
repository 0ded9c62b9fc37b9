"""%config Elastic and tab completion in a real IPython shell, jedi on and off."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets import TraitError
from traitlets.config import Config

from nb_elastic import completion, options
from nb_elastic.config import Elastic
from nb_elastic.option_table import FLAGS


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    config = Config()
    config.HistoryManager.enabled = False
    found = InteractiveShell(config=config)
    elastic = Elastic(parent=found)
    found.configurables.append(elastic)
    found.register_magic_function(lambda line, cell=None: None, "line_cell", "elastic_launch")
    completion.install(found)
    completion.install(found)
    yield found
    completion.uninstall(found)
    found.atexit_operations()
    atexit.unregister(found.atexit_operations)


def elastic(shell: InteractiveShell) -> Elastic:
    return next(c for c in shell.configurables if isinstance(c, Elastic))


def completed(shell: InteractiveShell, text: str) -> list[str]:
    """What a kernel without experimental completion and older terminals ask for."""
    with pytest.warns(PendingDeprecationWarning):
        return shell.complete(None, text)[1]


def offered(shell: InteractiveShell, text: str) -> list[str]:
    """What kernels of today ask for."""
    with provisionalcompleter():
        return [c.text for c in shell.Completer.completions(text, len(text))]


def config(shell: InteractiveShell, line: str) -> object:
    return shell.run_line_magic("config", line)


def test_nothing_is_set_at_first_so_that_the_environment_counts(shell):
    assert elastic(shell).as_mapping() == {}


def test_what_is_set_reaches_a_launch_and_none_takes_it_back(shell):
    shell.user_ns["count"] = 2
    config(shell, "Elastic.nproc_per_node = count")
    config(shell, "Elastic.gpus = [0, 2]")
    config(shell, "Elastic.env = {'A': 1}")
    assert elastic(shell).as_mapping() == {"nproc_per_node": 2, "gpus": ("0", "2"), "env": {"A": "1"}}
    found = options.parse(["--env", "B=2"], config=elastic(shell).as_mapping(), target="forbidden").options
    assert (found.nproc_per_node, found.gpus, found.env) == (2, ("0", "2"), {"A": "1", "B": "2"})
    config(shell, "Elastic.nproc_per_node = None")
    assert config(shell, "Elastic.nproc_per_node") is None
    assert "nproc_per_node" not in elastic(shell).as_mapping()


def test_a_bad_value_is_told_in_our_words_and_changes_nothing(shell, caplog):
    config(shell, "Elastic.nproc_per_node = 2")
    with caplog.at_level(logging.ERROR):
        config(shell, "Elastic.nproc_per_node = 0")
    told = "Elastic.nproc_per_node = 0 makes no sense: it must be a whole number of at least 1, or auto, gpu or cpu."
    assert [r.getMessage() for r in caplog.records] == [told]
    assert elastic(shell).as_mapping() == {"nproc_per_node": 2}


@pytest.mark.parametrize("name", [f.name for f in FLAGS if f.is_in_version])
def test_every_option_refuses_what_makes_no_sense(name):
    with pytest.raises(TraitError, match=rf"Elastic\.{name} = .* makes no sense"):
        setattr(Elastic(), name, object())


def test_a_config_file_sets_defaults_too():
    given = Config()
    given.Elastic.max_restarts = 2
    assert Elastic(config=given).as_mapping() == {"max_restarts": 2}


def test_config_lists_every_option_with_its_help(shell, capsys):
    config(shell, "")
    assert "Elastic" in capsys.readouterr().out
    config(shell, "Elastic")
    text = " ".join(capsys.readouterr().out.split())
    assert [f.name for f in FLAGS if (f"Elastic.{f.name}=" in text) != f.is_in_version] == []
    assert "How often a failed group is started again. Default: 0" in text


COMPLETED = [
    ("%%elastic_launch --np", "", [(17, 21, "--nproc"), (17, 21, "--nproc-per-node")]),
    ("%%elastic_launch --np", "\nimport os", [(17, 21, "--nproc"), (17, 21, "--nproc-per-node")]),
    ("%%elastic_launch --render w", "", [(26, 27, "widget")]),
    ("%%elastic_launch --render=w", "", [(26, 27, "widget")]),
    ("x = 1\n%elastic_launch --start-method w", "", [(37, 38, "warm")]),
    ("%elastic_launch -n ", "", [(19, 19, "auto"), (19, 19, "gpu"), (19, 19, "cpu")]),
    ("%elastic_launch --numa_b", "", [(16, 24, "--numa_binding")]),
]


@pytest.mark.parametrize("is_jedi", [True, False])
@pytest.mark.parametrize(("text", "rest", "found"), COMPLETED)
def test_tab_completes_options_as_the_kernel_asks(shell, text, rest, found, is_jedi):
    shell.Completer.use_jedi = is_jedi
    with provisionalcompleter():
        told = [(c.start, c.end, c.text) for c in shell.Completer.completions(text + rest, len(text))]
    assert told == found


def test_tab_completes_options_as_a_terminal_asks(shell):
    assert completed(shell, "%%elastic_launch --detac") == ["--detach"]


@pytest.mark.parametrize("line", ["%elastic_launch train_d", "%elastic_launch -n 2 train_d"])
def test_the_notebooks_functions_complete_as_a_target(shell, line):
    shell.user_ns |= {"train_digits": lambda: None, "train_data": 3}
    assert offered(shell, line) == ["train_digits"]
    assert offered(shell, f"{line} train_d") == []


def test_an_options_value_is_not_completed_as_a_target(shell):
    shell.user_ns["train_digits"] = lambda: None
    assert offered(shell, "%elastic_launch --name train_d") == []


def test_python_lines_complete_as_ever(shell):
    shell.user_ns["nproc_wanted"] = 1
    assert offered(shell, "nproc_w") == ["nproc_wanted"]
    completion.uninstall(shell)
    assert completed(shell, "%%elastic_launch --detac") == []
