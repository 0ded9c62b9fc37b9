"""torch finds the notebook's code in a rank: TorchScript, torch.compile, torch.save, DataLoader workers.

A user would lose: "source code not available", or workers that can't find the dataset's class.
"""

import pytest

from tests.support.cells import notebook  # noqa: F401

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

MODEL = """
from typing import Dict, List, Optional
import torch
from torch import nn, Tensor
import torch.nn.functional as F

def scaled(x: Tensor, by: Optional[float] = None) -> Tensor:
    parts: List[Tensor] = []
    for i in range(2):
        parts.append(x * (2.0 if by is None else by))
    return torch.cat(parts)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
    def forward(self, x: Tensor) -> Tensor:
        seen: Dict[str, Tensor] = {"x": x}
        return F.relu(self.linear(seen["x"]))

@torch.jit.ignore
def ignored(x: Tensor) -> Tensor:
    return x

@torch.compile(backend="eager", fullgraph=True)
def compiled(x):
    return scaled(x) + 1

net = Net()
wrapped = torch.compile(Net(), backend="eager")
"""

CHECKS = """
import copy, inspect, io, warnings
warnings.simplefilter("ignore")
x = torch.ones(3)
scripted = torch.jit.script(scaled)
scripted_net = torch.jit.script(net)
graphs = []
def spy(graph, inputs):
    graphs.append(len(list(graph.graph.nodes)))
    return graph.forward
born = torch.compile(lambda t: scaled(t) * 3, backend=spy)
aot = torch.compile(net, backend="aot_eager")
file = io.BytesIO()
torch.save(net, file)
file.seek(0)
again = torch.load(file, weights_only=False)
class Born(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1
[
    scripted(x).tolist() == scaled(x).tolist(), scripted_net(x).tolist() == net(x).tolist(), born(x).tolist()[0], len(graphs) >= 1,
    torch.allclose(aot(x), net(x)), compiled(x).tolist()[0], wrapped(x).shape == (2,), type(again) is Net, type(net) is Net,
    inspect.getsource(Net).splitlines()[0], inspect.getsource(scaled).splitlines()[0], inspect.getsourcefile(Net),
    torch.jit.script(Born())(x).tolist()[0], type(copy.deepcopy(net)) is Net,
]
"""


def test_torch_finds_the_sources_of_notebook_code(notebook):  # noqa: F811
    notebook.cell(MODEL)
    assert notebook.launch(CHECKS).value == [
        True, True, 6.0, True, True, 3.0, True, True, True,
        "class Net(nn.Module):", "def scaled(x: Tensor, by: Optional[float] = None) -> Tensor:", "Cell In[1]", 2.0, True,
    ]  # fmt: skip


DATASET = """
import torch
from torch.utils.data import DataLoader, Dataset

OFFSET = 100
big = torch.arange(1_000_000.0)

def shift(x): return x + OFFSET

class Numbers(Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return shift(big[i])

def gather(items): return torch.stack(items).tolist()

numbers = Numbers()
loader = DataLoader(numbers, batch_size=4, num_workers=2, collate_fn=gather)
"""

WORKERS = """
class Doubled(Numbers):
    def __getitem__(self, i): return 2 * super().__getitem__(i)

ran = open("/dev/null")   # the body itself must not run again in a worker
print("body")
found = {}
for method in ("fork", "spawn", "forkserver"):
    for dataset in (numbers, Doubled()):
        data = DataLoader(dataset, batch_size=4, num_workers=1, collate_fn=gather, multiprocessing_context=method)
        found[method, type(dataset).__name__] = [row for batch in data for row in batch]
found["captured"] = [row for batch in loader for row in batch]
found
"""


def test_dataloader_workers_of_every_start_method_find_the_dataset(notebook):  # noqa: F811
    """The notebook's dataset and the body's own; big tensors are mapped again, not sent."""
    notebook.cell(DATASET)
    done = notebook.launch(WORKERS)
    plain = [100.0 + i for i in range(8)]
    expected = {}
    for method in ("fork", "spawn", "forkserver"):
        expected[method, "Numbers"], expected[method, "Doubled"] = plain, [2 * x for x in plain]
    assert done.value == {**expected, "captured": plain}, done.stderr
    assert done.stdout == "body\n"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_private_names_of_torch_that_we_rely_on_are_there():
    """payload_tensors reads these; when torch moves them, this says so before a user does."""
    import torch

    typed = torch.ones(1)._typed_storage()
    assert isinstance(typed._untyped_storage, torch.UntypedStorage)
    assert isinstance(typed._untyped_storage._cdata, int)
    made = torch.compile(lambda x: x, backend="eager", dynamic=True, fullgraph=True)
    free = dict(zip(made.__code__.co_freevars, made.__closure__, strict=True))
    context = free["self"].cell_contents
    backend = context.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    assert "_torchdynamo_orig_callable" in vars(made)
    assert (context._dynamic, context.fullgraph, backend.compiler_fn.__name__) == (True, True, "eager")
    inductor = torch.compile(lambda x: x, mode="reduce-overhead")
    backend = dict(zip(inductor.__code__.co_freevars, inductor.__closure__, strict=True))["self"].cell_contents.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    assert (type(backend).__name__, backend.config["triton.cudagraphs"]) == ("_TorchCompileInductorWrapper", True)
