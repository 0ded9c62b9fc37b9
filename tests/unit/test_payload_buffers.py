"""Tensors, arrays and bytes reach the ranks without a copy each, and stay what they were.

A user would lose: memory for four copies of a dataset, or the sharing of weights inside a model.
"""

import gc
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from nb_elastic import payload, payload_file
from tests.support.cells import ROOT, notebook  # noqa: F401

MB = 1 << 20

FOUR_RANKS = """
import json, os, sys, types
from nb_elastic import payload

def about(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in list(f)[1:]}

ranks = []
for rank in range(4):
    up_r, up_w = os.pipe()
    down_r, down_w = os.pipe()
    pid = os.fork()
    if not pid:
        main = types.ModuleType("__main__")
        run = payload.load(sys.argv[1], int(sys.argv[2]), main)
        total = run()
        os.write(up_w, json.dumps(total).encode())
        os.read(down_r, 1)
        main.array[0] = rank
        os.write(up_w, json.dumps(float(main.array[0])).encode())
        os.read(down_r, 1)
        os._exit(0)
    ranks.append((pid, up_r, down_w))
report = {"sums": [json.loads(os.read(r, 99)) for _, r, _ in ranks]}
report["pss"] = [about(pid)["Pss"] for pid, _, _ in ranks]
report["rss"] = [about(pid)["Rss"] for pid, _, _ in ranks]
written = []
for _, r, w in ranks:
    os.write(w, b"x")
    written.append(json.loads(os.read(r, 99)))
report["written"] = written
report["pss_after"] = [about(pid)["Pss"] for pid, _, _ in ranks]
for pid, _, w in ranks:
    os.write(w, b"x")
    os.waitpid(pid, 0)
print(json.dumps(report))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="smaps is Linux's")
def test_four_ranks_share_one_copy_of_an_array_and_write_apart(notebook, tmp_path):  # noqa: F811
    notebook.names["array"] = np.ones(256 * MB // 8)
    shipped = notebook.dump("array.sum().item()")
    assert len(shipped.data) < 10_000
    path = tmp_path / "payload.pkl"
    fd = payload.write(shipped, path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", FOUR_RANKS, str(path), str(fd)], pass_fds=[fd], capture_output=True, text=True, cwd=ROOT, check=False
        )  # fmt: skip
    finally:
        os.close(fd)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["sums"], report["written"]) == ([256 * MB / 8] * 4, [0.0, 1.0, 2.0, 3.0])
    assert min(report["rss"]) >= 256
    assert sum(report["pss"]) < 1.5 * 256
    assert sum(report["pss_after"]) < 1.5 * 256


def big(array):
    return np.resize(array, 400_000)


ARRAYS = {
    "plain": np.arange(300_000.0),
    "matrix": np.arange(300_000.0).reshape(600, 500),
    "fortran": np.asfortranarray(np.arange(300_000.0).reshape(600, 500)),
    "strided": np.arange(900_000.0)[::3],
    "transposed": np.arange(300_000.0).reshape(20, 30, 500).transpose(2, 0, 1),
    "negative": np.arange(300_000.0)[::-1],
    "scalar": np.array(3.5),
    "empty": np.empty((0, 3)),
    "bool": np.arange(2_000_000) % 2 == 0,
    "complex": np.arange(200_000) * 1j,
    "half": (np.arange(600_000) % 2048).astype(np.float16),
    "big_endian": np.arange(300_000, dtype=">i8"),
    "datetime": np.arange(300_000).astype("datetime64[s]"),
    "text": big(np.array(["a", "bc"])),
    "record": np.zeros(200_000, dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array([1, "x", None] * 3, dtype=object),
    "small": np.arange(3),
    "masked": np.ma.masked_array(np.arange(300_000.0), np.arange(300_000) % 2 == 0),
    "broadcast": np.broadcast_to(np.arange(3.0), (100_000, 3)),
}


def test_arrays_of_every_kind_arrive_as_they_were(notebook):  # noqa: F811
    notebook.names["arrays"] = ARRAYS
    notebook.cell("import numpy as np")
    done = notebook.launch(
        "for a in arrays.values():\n    if a.size and a.dtype != object: a.flat[0] = a.flat[-1]\n"
        "{k: (a, a.flags.f_contiguous, a.flags.writeable) for k, a in arrays.items()}"
    )
    got = done.value
    assert len(done.payload.data) < 400_000
    assert list(got) == list(ARRAYS)
    for name, (array, _, is_writeable) in got.items():
        expected = ARRAYS[name].copy()
        if expected.size and expected.dtype != object:
            expected.flat[0] = expected.flat[-1]
        assert (type(array), array.dtype, array.shape) == (type(expected), expected.dtype, expected.shape), name
        assert array.tolist() == expected.tolist(), name
        assert is_writeable, name
    assert got["fortran"][1]


def test_a_read_only_array_stays_read_only(notebook):  # noqa: F811
    array = np.arange(300_000.0)
    array.flags.writeable = False
    notebook.names["array"] = array
    assert notebook.launch("array.flags.writeable, array[7]").value == (False, 7.0)


def test_bytes_views_and_text_travel_out_of_band(notebook):  # noqa: F811
    notebook.names |= {
        "raw": b"ab" * MB, "changing": bytearray(b"cd" * MB), "text": "ü" * MB, "view": memoryview(b"xy" * MB)[1:],
        "shaped": memoryview(np.arange(600_000.0)).cast("B").cast("d", [1000, 600]), "small": memoryview(b"abc"),
        "strided": memoryview(b"abcd" * MB)[::2], "nested": {"deep": [b"n" * (2 * MB)]},
    }  # fmt: skip
    body = """
changing[0] = 0
[raw[:2], len(raw), bytes(changing[:2]), type(changing).__name__, text[-1], len(text), bytes(view[:2]), view.nbytes, shaped.shape, shaped[1, 1],
 bytes(small), bytes(strided[:3]), len(strided), nested["deep"][0][:2], type(view).__name__]
"""
    done = notebook.launch(body)
    assert done.value == [
        b"ab", 2 * MB, b"\0d", "bytearray", "ü", MB, b"yx", 2 * MB - 1, (1000, 600), 601.0, b"abc", b"aca", 2 * MB, b"nn", "memoryview",
    ]  # fmt: skip
    assert len(done.payload.data) < 10_000


def test_a_captured_view_of_memory_does_not_crash_the_kernel_later(notebook):  # noqa: F811
    """CPython's collector dies of a PickleBuffer over a memoryview in a cycle."""
    notebook.names["view"] = memoryview(b"xy" * MB)[1:]
    shipped = [notebook.dump("view")]
    shipped.append(shipped)
    del notebook.names["view"], shipped
    gc.collect()
    assert gc.collect() == 0


def test_without_big_data_there_is_no_memory_file(notebook, tmp_path):  # noqa: F811
    assert payload.write(notebook.dump("1"), tmp_path / "p") == -1


def test_nobody_can_change_or_cut_the_shared_memory(notebook, tmp_path):  # noqa: F811
    """A rank that did would crash the others with a bus error."""
    notebook.names["raw"] = bytes(2 * MB)
    fd = payload.write(notebook.dump("raw"), tmp_path / "p")
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_the_payload_file_is_the_user_s_alone(notebook, tmp_path):  # noqa: F811
    payload.write(notebook.dump("1"), tmp_path / "p")
    assert (tmp_path / "p").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_a_torn_payload_is_told_in_words(notebook, tmp_path):  # noqa: F811
    (tmp_path / "p").write_bytes(b"something else")
    with pytest.raises(Exception, match="is not a payload or result"):
        payload_file.read_file(tmp_path / "p")


TENSORS = """
import torch
from torch import nn
import torch.nn.functional as F

base = torch.arange(1_000_000.0)
view = base[10:20]
matrix = base.view(1000, 1000).t()
net = nn.Sequential(nn.Embedding(1000, 300), nn.Linear(300, 1000, bias=False))
net[1].weight = net[0].weight
optimizer = torch.optim.Adam(net.parameters())
net(torch.arange(5)).sum().backward()
optimizer.step()
half = torch.ones(1_000_000, dtype=torch.bfloat16)
param = nn.Parameter(torch.ones(600_000), requires_grad=False)
leaf = torch.ones(3, requires_grad=True)
grown = leaf * 2
sparse = torch.eye(3).to_sparse()
with __import__("warnings").catch_warnings(action="ignore"):
    quantised = torch.quantize_per_tensor(torch.ones(300_000), 0.1, 0, torch.qint8)
empty, scalar, meta = torch.empty(0), torch.tensor(2.5), torch.empty(3, device="meta")
complex_, boolean = torch.ones(300_000, dtype=torch.complex64).conj(), torch.ones(2_000_000, dtype=torch.bool)
device, dtype, size = torch.device("cpu"), torch.bfloat16, torch.Size([1, 2])
generator = torch.Generator().manual_seed(3)
"""

TENSOR_CHECKS = """
base[10] = -1
net[0].weight.data[0, 0] = 42
small = net[1].weight.untyped_storage()
scalar.resize_(4)
[
 view[0].item(), matrix[10, 0].item(), matrix.stride(), view.untyped_storage().data_ptr() == base.untyped_storage().data_ptr(),
 net[1].weight is net[0].weight, net[1].weight[0, 0].item(), [p is q for p, q in zip(optimizer.param_groups[0]["params"], net.parameters())],
 len(optimizer.state), half.dtype == torch.bfloat16, half.float().sum().item(), type(param).__name__, param.requires_grad, leaf.requires_grad,
 grown.tolist(), sparse.to_dense().tolist() == torch.eye(3).tolist(), quantised.dequantize().sum().round().item(), empty.shape == (0,),
 meta.device.type, complex_.is_conj(), boolean.all().item(), str(device), dtype is torch.bfloat16, size, F.relu(torch.tensor(-1.0)).item(),
 float(optimizer.step() or 0), generator.initial_seed(), net[0].weight.grad is not None,
]
"""


def test_tensors_arrive_as_they_were_sharing_what_they_shared(notebook):  # noqa: F811
    pytest.importorskip("torch")
    notebook.cell(TENSORS)
    done = notebook.launch(TENSOR_CHECKS)
    assert done.value == [
        -1.0, -1.0, (1, 1000), True, True, 42.0, [True], 1, True, 1_000_000.0, "Parameter", False, True, [2.0, 2.0, 2.0], True, 300_000.0, True,
        "meta", True, True, "cpu", True, (1, 2), 0.0, 0.0, 3, False,
    ]  # fmt: skip
    assert len(done.payload.data) < 400_000
