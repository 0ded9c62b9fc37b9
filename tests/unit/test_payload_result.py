"""What a rank gives back arrives in the notebook as the notebook's own.

A user would lose: results that are not instances of their own classes, or a notebook changed by loading them.
"""

import contextlib
import os
import pickle
import signal

import numpy as np
import pytest

from nb_elastic import payload, payload_file
from nb_elastic.errors import PayloadError
from tests.support.cells import notebook  # noqa: F401

MB = 1 << 20


def test_instances_of_notebook_classes_come_back_as_the_notebook_s(notebook):  # noqa: F811
    notebook.cell(
        "import dataclasses, enum\n@dataclasses.dataclass\nclass P:\n    x: int\n    class In: pass\nclass C(enum.Enum):\n    RED = 1\n"
        "def f(): return 1\np = P(1)\ninner = P.In()\nred = C.RED"
    )
    names = notebook.names
    before = {k: dict(vars(names[k])) for k in ("P", "C")}
    got = notebook.launch("p.x = 5\n[p, P, f, inner, red, P(2)]").value
    assert got[0] == names["P"](5)
    assert [
        type(got[0]) is names["P"],
        got[1] is names["P"],
        got[2] is names["f"],
        type(got[3]) is names["P"].In,
        got[4] is names["C"].RED,
    ] == [True] * 5
    after = {k: dict(vars(names[k])) for k in ("P", "C")}
    assert {k: {n: v for n, v in d.items() if n != "__slotnames__"} for k, d in after.items()} == {
        k: {n: v for n, v in d.items() if n != "__slotnames__"} for k, d in before.items()
    }


def test_a_class_that_the_body_changed_leaves_the_notebook_s_alone(notebook):  # noqa: F811
    notebook.cell("class A:\n    tag = 'notebook'")
    got = notebook.launch("old = A\nclass A:\n    tag = 'body'\nold.tag = 'changed'\n[A(), old()]").value
    assert ([v.tag for v in got], notebook.names["A"].tag) == (["body", "changed"], "notebook")


def test_classes_and_functions_born_in_the_body_come_by_value(notebook):  # noqa: F811
    notebook.cell("K = 3\nclass Base:\n    def g(self): return K")
    body = "N = 4\nclass Born(Base):\n    def f(self): return N + self.g()\ndef fn(x): return x + N\n(Born(), fn, lambda: N)"
    made, fn, anonymous = notebook.launch(body).value
    assert (made.f(), fn(1), anonymous(), isinstance(made, notebook.names["Base"])) == (7, 5, 4, True)
    assert "N" not in notebook.names


def test_a_notebook_that_changed_meanwhile_gets_its_new_class(notebook):  # noqa: F811
    notebook.cell("class A: v = 1")
    done = notebook.launch("A()")
    notebook.cell("class A: v = 2")
    assert done.value.v == 2


def test_a_class_that_is_gone_is_told_in_words(notebook):  # noqa: F811
    notebook.cell("class A: v = 1")
    done = notebook.launch("A()")
    del notebook.names["A"]
    with pytest.raises(PayloadError, match="can't be loaded here .*Its classes must be defined"):
        _ = done.value


def test_big_results_come_back_whole(notebook):  # noqa: F811
    notebook.cell("import numpy as np")
    done = notebook.launch(f"a = np.arange({4 * MB}.0)\n[a, a.reshape(1024, -1).T, b'x' * {3 * MB}, a[::2]]")
    a, b, c, d = done.value
    assert (a.sum(), b.shape, b.flags.f_contiguous, len(c), d[1]) == (
        np.arange(4.0 * MB).sum(),
        (4096, 1024),
        True,
        3 * MB,
        2.0,
    )
    a[0] = 7
    assert done.result.stat().st_size < 90 * MB


def test_tensors_come_back_sharing_what_they_shared(notebook):  # noqa: F811
    pytest.importorskip("torch")
    notebook.cell(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.l = torch.nn.Linear(900, 900)"
    )
    net, state, view = notebook.launch("n = Net()\n(n, n.state_dict(), n.l.weight.data[1])").value
    net.l.weight.data[1, 0] = 42
    assert (type(net) is notebook.names["Net"], state["l.weight"][1, 0].item(), view[0].item()) == (True, 42.0, 42.0)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ("import threading\n{'a': [threading.Lock()]}", "result -> ['a'] -> [0] (_thread.lock)"),
        ("(i for i in [1])", "result (generator)"),
        (
            "class A:\n    def __init__(self): self.f = open('/dev/null')\n[A()]",
            "result -> [0] -> f (_io.TextIOWrapper)",
        ),
    ],
)
def test_a_result_that_cannot_travel_names_the_way(notebook, body, path):  # noqa: F811
    done = notebook.launch(body)
    assert (done.returncode, done.result.exists()) == (1, False)
    assert f"PayloadError: {path} can't travel back to the notebook." in done.stderr


def test_a_model_wrapped_for_training_is_not_returned_as_such(notebook):  # noqa: F811
    """Loaded in the notebook, it would ask for a process group there."""
    pytest.importorskip("torch")
    body = """
import os, torch
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1", GLOO_SOCKET_IFNAME="lo")
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
{"model": model}
"""
    done = notebook.launch(body)
    assert (
        "PayloadError: result -> ['model'] (torch.nn.parallel.distributed.DistributedDataParallel) can't" in done.stderr
    )
    assert "return the model itself, model.module" in done.stderr


def test_pulled_variables_come_as_a_dict(tmp_path):
    payload.dump_values({"a": 1, "b": np.arange(300_000)}, tmp_path / "r")
    got = payload.load_result(tmp_path / "r")
    assert (got["a"], got["b"][-1]) == (1, 299_999)


def test_only_files_of_this_user_are_opened(tmp_path):
    """Unpickling runs code."""
    payload.dump_result(1, tmp_path / "r")
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "r")
    with pytest.raises(PayloadError, match="can't be opened"):
        payload.load_result(tmp_path / "link")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PayloadError, match="not a regular file"):
        payload.load_result(tmp_path / "fifo")
    if os.getuid() == 0:
        os.chown(tmp_path / "r", 12345, -1)
        with pytest.raises(PayloadError, match="was not written by you"):
            payload.load_result(tmp_path / "r")


def test_a_torn_result_is_told_in_words(tmp_path):
    path = tmp_path / "r"
    payload.dump_result([np.arange(1_000_000), "x" * 1000], path)
    whole = path.read_bytes()
    for size in (0, 10, 60, 500, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PayloadError):
            payload.load_result(path)


def test_a_full_disk_leaves_no_half_result(tmp_path, monkeypatch):
    def full(fd, view, offset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(payload_file, "write_at", full)
    with pytest.raises(OSError, match="No space"):
        payload.dump_result(1, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        'type("T", (), {"__module__": 5})()',
        "import sys\nclass A:\n    def __reduce__(self): return sys.exit, (3,)\nA()",
        (
            "class E(Exception):\n    def __str__(self): raise KeyError('mute')\n"
            "def fail(): raise E\nclass A:\n    def __reduce__(self): return fail, ()\nA()"
        ),
        "class A:\n    def __reduce__(self): return (lambda: 'x' * (1 << 60)), ()\nA()",
        "class A:\n    def __reduce__(self): return bytearray, (1 << 60,)\nA()",
        "class Odd(dict):\n    __getattr__ = dict.__getitem__\na = Odd()\na.__dict__['x'] = 1\na",
    ],
)
def test_a_result_that_cannot_be_loaded_is_told_in_words(notebook, body):  # noqa: F811
    """Whatever its unpickling raises: the notebook goes on."""
    done = notebook.launch(body)
    if done.returncode:
        assert "PayloadError: result" in done.stderr, done.stderr
        return
    try:
        payload.load_result(done.result)
    except PayloadError as told:
        assert "can't be loaded here" in str(told)


def test_a_huge_sparse_file_costs_no_memory(tmp_path):
    """A rank that seeked before it wrote, or meant harm, must not kill the kernel."""
    path = tmp_path / "r"
    payload.dump_result([1, np.arange(300_000)], path)
    os.truncate(path, 1 << 40)
    got = payload.load_result(path)
    assert (got[0], got[1][-1]) == (1, 299_999)
    got[1][0] = 7
    path.write_bytes(payload_file.MAGIC)
    os.truncate(path, 1 << 40)
    with pytest.raises(PayloadError, match="is torn: its header can't be read"):
        payload.load_result(path)


def test_a_huge_sparse_buffer_is_loaded_page_by_page(tmp_path):
    path = tmp_path / "r"
    size = 1 << 40
    stream = payload_file.PickleStream()
    small = pickle.PickleBuffer(bytearray(2 * MB))
    pickle.Pickler(stream, protocol=5, buffer_callback=stream.take_buffer).dump(small)
    layout = {**stream.layout(), "regions": [[0, size, False]]}
    path.write_bytes(payload_file.encode({"kind": "result", **layout}, stream.in_band()))
    os.truncate(path, payload_file.aligned(path.stat().st_size) + size)
    got = payload.load_result(path)
    assert (got.nbytes, got[-1]) == (size, 0)


@pytest.mark.parametrize("field", ["segments", "regions", "buffers"])
@pytest.mark.parametrize("value", [5, "x", [["a", "b"]], [[1, -5, 3]], [None], [[0, 1 << 70, 1]], [99], {}])
def test_a_header_with_nonsense_is_told_in_words(tmp_path, field, value):
    path = tmp_path / "r"
    layout = {"segments": [[0, 4]], "regions": [], "buffers": [], field: value}
    path.write_bytes(payload_file.encode(layout, pickle.dumps(1, protocol=2)))
    with contextlib.suppress(PayloadError):
        payload.load_result(path)


def test_a_header_nested_beyond_reason_is_told_in_words(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(payload_file.MAGIC + b"[" * 1_000_000 + b"\n")
    with pytest.raises(PayloadError, match="is torn"):
        payload.load_result(path)


@pytest.mark.parametrize("call", ["open", "fchmod", "close"])
def test_an_interrupt_leaves_no_result_half_written(tmp_path, monkeypatch, call):
    """After the close it was closed twice, and what was written stayed under its hidden name."""
    plain = getattr(os, call)

    def interrupted(*args, **more):
        done = plain(*args, **more)
        signal.raise_signal(signal.SIGINT)
        return done

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, call, interrupted)
        payload.dump_result([1, 2], tmp_path / "result.pkl")
    assert [p.name for p in tmp_path.iterdir()] == ["result.pkl"]
    assert payload.load_result(tmp_path / "result.pkl") == [1, 2]
