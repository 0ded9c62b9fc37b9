"""Line numbers that are the notebook's whatever stands above the body, and pulls that tell what they could not bring."""

from __future__ import annotations

import pytest

from tests.support.kernel import Kernel

STACKED = [
    ("%%time\n%%elastic_launch -n 1\nx = 1\n1/0", 4),
    ("%%elastic_launch -n 1\n1/0", 2),
    ("%%elastic_launch -n 1\n\n\n1/0\n", 4),
    ("\n\n%%elastic_launch -n 1\n1/0\n\n", 4),
]


@pytest.mark.parametrize(("code", "line"), STACKED, ids=["stacked magics", "one line", "blank below", "blank above"])
def test_a_failure_is_told_on_the_line_that_the_reader_sees(notebook: Kernel, code: str, line: int):
    cell = notebook.run(code)
    report = cell.messages[-1].text
    assert f"Cell In[{cell.reply['execution_count']}], line {line}, in <module>\n    1/0\n" in report, report


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [("x = 1\nbreak", 3, "break"), ("return 1", 2, "return 1"), ("\n\ndef f(a, a):\n    pass", 4, "def f(a, a):")],
    ids=["break", "return", "twice the same argument"],
)
def test_a_syntax_error_of_the_compiler_shows_its_line(notebook: Kernel, body: str, line: int, text: str):
    cell = notebook.run(f"%%elastic_launch -n 1\n{body}")
    assert cell.reply["ename"] == "SyntaxError"
    assert f"line {line}\n    {text}\n" in cell.text, cell.text


def test_a_pulled_name_that_was_never_bound_is_told_and_the_others_arrive(notebook: Kernel):
    cell = notebook.run("%%elastic_launch -n 1 --pull found,lost\nfound = [1]")
    assert cell.reply["ename"] == "PayloadError"
    assert "lost" in cell.messages[-1].text
    assert notebook.ok("print(found, 'lost' in globals())").stdout == "[1] False\n"


def test_a_pulled_value_that_cannot_travel_is_told_with_the_reason(notebook: Kernel):
    cell = notebook.run("%%elastic_launch -n 1 --pull lock\nimport threading\nlock = threading.Lock()")
    assert cell.reply["ename"] == "PayloadError"
    assert "_thread.lock" in cell.messages[-1].text, cell.text


def test_a_working_folder_that_is_gone_is_named_as_such(notebook: Kernel):
    notebook.ok(
        "import os\nhere = os.getcwd()\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir(os.path.join(here, 'gone'))"
    )
    cell = notebook.run("%%elastic_launch -n 1\n1")
    notebook.ok("os.chdir(here)")
    assert cell.reply["ename"] == "OptionError"
    assert "working folder is gone" in cell.text


def test_a_rank_that_turns_its_log_into_a_pipe_hangs_nobody(notebook: Kernel):
    body = (
        "import os\nlog = os.path.join(os.environ['NB_ELASTIC_RUN_DIR'], 'round_0', '0', 'stdout.log')\n"
        "os.unlink(log)\nos.mkfifo(log)\nraise ValueError('after')"
    )
    cell = notebook.run(f"%%elastic_launch -n 1\n{body}", timeout_s=60)
    assert cell.reply["ename"] == "WorkerFailedError"
    assert notebook.ok("print(repr(nb_elastic.last_run().logs(0)))", timeout_s=30).stdout == "''\n"
    notebook.ok("%elastic logs", timeout_s=30)
