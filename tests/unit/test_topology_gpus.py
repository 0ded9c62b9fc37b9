"""Which GPUs a run uses: CUDA_VISIBLE_DEVICES, --gpus, MIG slices, NVML and machines without it.

Runs in: the tests.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from nb_elastic.errors import OptionError
from nb_elastic.nvml import CtypesNvml, NvmlDevice, NvmlError, NvmlMig, NvmlMissingError, sysfs_pci
from nb_elastic.topology import Gpu, Topology, read, resolve_nproc, visible_gpus, visible_note, visible_value
from tests.support import fake_sys
from tests.support.fake_sys import FakeGpu, uuid_of

EIGHT = fake_sys.TWO_SOCKETS_EIGHT_GPUS
SLICED = fake_sys.ONE_NODE_UNKNOWN.but(gpus=[FakeGpu(-1), FakeGpu(-1, migs=("MIG-11111111-aa", "MIG-22222222-bb"))])
STUB_SOURCE = Path(__file__).parents[1] / "support" / "fake_nvml.c"


@pytest.fixture
def eight(tmp_path: Path) -> Topology:
    return fake_sys.topology_of(EIGHT, tmp_path)


def chosen(topology: Topology, variable: str | None = None, gpus: tuple[str, ...] = ()) -> list[int]:
    return [gpu.index for gpu in visible_gpus(topology, cuda_visible_devices=variable, gpus=gpus)]


VARIABLES = [
    "0", "3,1", " 2 , 5 ", "7,8,1", "-1", "0,-1,1", "", "2gpu,3x", "x", "0,,1", "NoDevFiles", "+1,2",
    "GPU-03", "GPU-06,GPU-01", "GPU-06, GPU-01", " GPU-03", "GPU-03,MIG-1", "GPU-0", "GPU-99,GPU-01", "GPU-01,2", "1,GPU-03",
]  # fmt: skip


@pytest.mark.parametrize("variable", VARIABLES)
def test_visible_devices_are_read_as_torch_and_cuda_read_them(
    variable: str, eight: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading them otherwise binds ranks near the wrong GPU, or starts ranks for GPUs that CUDA hides."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    uuids = [uuid_of(index) for index in range(8)]
    with (
        mock.patch.object(torch.cuda, "_raw_device_count_nvml", lambda: 8),
        mock.patch.object(torch.cuda, "_raw_device_uuid_nvml", lambda: uuids),
    ):
        count = torch.cuda._device_count_nvml()
        words = torch.cuda._parse_visible_devices()[:count]
        torchs = torch.cuda._transform_uuid_to_ordinals(words, uuids) if words and type(words[0]) is str else words
    assert chosen(eight, variable) == torchs


def test_an_unset_variable_shows_all(eight: Topology) -> None:
    assert chosen(eight) == list(range(8))


@pytest.mark.parametrize("variable", ["1,1", "GPU-03,GPU-03ab"])
def test_a_gpu_named_twice_is_refused_since_cuda_would_show_none(variable: str, eight: Topology) -> None:
    with pytest.raises(OptionError, match=f"^CUDA_VISIBLE_DEVICES={variable} names GPU .* twice; CUDA then shows no"):
        visible_gpus(eight, cuda_visible_devices=variable)


@pytest.mark.parametrize(
    ("variable", "gpus", "indices", "value"),
    [
        (None, ("0", "2"), [0, 2], "0,2"),
        (None, ("5", "1"), [5, 1], "5,1"),
        ("4,5,6", ("0", "2"), [4, 6], "4,6"),
        ("GPU-07,GPU-02", ("1",), [2], "GPU-02"),
        ("4,5", ("GPU-05",), [5], "5"),
        (None, ("GPU-03", "1"), [3, 1], "3,1"),
    ],
)
def test_gpus_counts_as_the_notebooks_cuda_does(
    variable: str | None, gpus: tuple[str, ...], indices: list[int], value: str, eight: Topology
) -> None:
    found = visible_gpus(eight, cuda_visible_devices=variable, gpus=gpus)
    assert ([gpu.index for gpu in found], visible_value(found)) == (indices, value)


@pytest.mark.parametrize(
    ("variable", "gpus", "message"),
    [
        ("4,5", ("0", "2"), "--gpus 2: there is no such GPU. CUDA_VISIBLE_DEVICES=4,5 leaves: 0 (NVIDIA H100 80GB HBM3), 1 (NVIDIA H100 80GB HBM3)."),
        ("4,5", ("GPU-00",), "--gpus GPU-00: there is no such GPU. CUDA_VISIBLE_DEVICES=4,5 leaves: 0 (NVIDIA H100 80GB HBM3), 1 (NVIDIA H100 80GB HBM3)."),
        ("", ("0",), "--gpus 0: there is no such GPU. CUDA_VISIBLE_DEVICES= leaves: no GPU."),
        (None, ("1", "1"), "--gpus 1,1 names GPU 1 twice."),
        (None, ("all",), "--gpus all: there is no such GPU. Here: " + ", ".join(f"{i} (NVIDIA H100 80GB HBM3)" for i in range(8)) + "."),
        (None, ("-1",), "--gpus -1: there is no such GPU. Here: " + ", ".join(f"{i} (NVIDIA H100 80GB HBM3)" for i in range(8)) + "."),
    ],
)  # fmt: skip
def test_gpus_that_do_not_exist_are_named_with_those_that_do(
    variable: str | None, gpus: tuple[str, ...], message: str, eight: Topology
) -> None:
    with pytest.raises(OptionError) as error:
        visible_gpus(eight, cuda_visible_devices=variable, gpus=gpus)
    assert str(error.value) == message


def test_a_machine_without_gpus_says_so(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        visible_gpus(fake_sys.topology_of(fake_sys.NO_GPUS, tmp_path), gpus=("0",))
    assert str(error.value) == "--gpus 0: there is no such GPU. Here: no GPU."


def test_a_mig_slice_is_found_with_its_parents_place(tmp_path: Path) -> None:
    topology = fake_sys.topology_of(SLICED, tmp_path)
    uuid = "MIG-22222222-bb"
    expected = Gpu(
        index=1, token=uuid, uuid=uuid, pci="0000:11:00.0", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        memory_bytes=10 << 30, numa_node=0,
    )  # fmt: skip
    assert visible_gpus(topology, cuda_visible_devices=uuid) == [expected]
    assert visible_gpus(topology, gpus=(uuid,)) == [expected]
    both_kinds = visible_gpus(topology, cuda_visible_devices=f"{uuid_of(0)},MIG-22222222-bb")
    assert [gpu.uuid for gpu in both_kinds] == [uuid_of(0)]  # a list is of one kind: CUDA stops at the other
    assert visible_gpus(topology, cuda_visible_devices="MIG-2222") == []  # a slice needs its whole UUID
    assert visible_gpus(topology, cuda_visible_devices="MIG-11111111-aa,MIG-22222222-bb", gpus=("1",)) == [expected]


def test_an_old_drivers_spelling_of_a_slice_leads_to_its_parent(tmp_path: Path) -> None:
    topology = fake_sys.topology_of(SLICED, tmp_path)
    word = f"MIG-{uuid_of(1)}/1/0"
    found = visible_gpus(topology, cuda_visible_devices=word)
    assert [(gpu.index, gpu.token, gpu.pci, gpu.is_mig) for gpu in found] == [(1, word, "0000:11:00.0", True)]


def test_gpus_and_slices_are_not_mixed_since_cuda_would_hide_one_kind(tmp_path: Path) -> None:
    topology = fake_sys.topology_of(SLICED, tmp_path)
    with pytest.raises(OptionError) as error:
        visible_gpus(topology, gpus=("0", "MIG-11111111-aa"))
    assert str(error.value) == "--gpus 0,MIG-11111111-aa: CUDA shows a process whole GPUs or MIG slices, not both."


def test_different_gpus_are_numbered_differently_by_cuda_and_that_is_told(tmp_path: Path) -> None:
    topology = fake_sys.topology_of(fake_sys.ONE_NODE_UNKNOWN.but(gpus=[FakeGpu(0, "NVIDIA T4"), FakeGpu(0)]), tmp_path)
    assert visible_note(topology, environ={}).startswith("This machine's GPUs differ, and CUDA then numbers them")
    assert visible_note(topology, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == ""


def test_a_word_that_hides_the_gpus_after_it_is_told(eight: Topology) -> None:
    assert visible_note(eight, environ={"CUDA_VISIBLE_DEVICES": "0,9,1"}) == (
        "CUDA_VISIBLE_DEVICES=0,9,1: '9' names no GPU of this machine, and CUDA ignores the rest."
    )
    assert [visible_note(eight, environ={"CUDA_VISIBLE_DEVICES": v}) for v in ("0,1", "-1", "", "0,-1")] == [""] * 4


@pytest.mark.parametrize(("nproc", "count"), [(3, 3), ("3", 3), ("gpu", 2), ("auto", 2), ("cpu", 64), (1024, 1024)])
def test_nproc_counts_what_is_visible(nproc: int | str, count: int, eight: Topology) -> None:
    assert resolve_nproc(nproc, topology=eight, visible=visible_gpus(eight, cuda_visible_devices="4,5")) == count


def test_auto_counts_cpus_where_no_gpu_is_visible(eight: Topology, tmp_path: Path) -> None:
    assert resolve_nproc("auto", topology=eight, visible=[]) == 64
    half = fake_sys.topology_of(fake_sys.HALF_A_NODE, tmp_path / "half")
    assert resolve_nproc("auto", topology=half, visible=[]) == 8


@pytest.mark.parametrize(
    ("nproc", "message"),
    [
        (0, "--nproc-per-node 0: at least one rank is needed; give 1 or more, or auto."),
        (-1, "--nproc-per-node -1: at least one rank is needed; give 1 or more, or auto."),
        ("x", "--nproc-per-node 'x': give a number of ranks, or gpu, cpu or auto."),
        (10_000, "--nproc-per-node 10000: this machine lets us use 64 CPUs and 0 GPUs; more than 1024 ranks would only stall it. Is it a typo?"),
        ("gpu", "--nproc-per-node gpu: no GPU is visible here. CUDA_VISIBLE_DEVICES hides all 8. Give a number, cpu or auto."),
        ("xpu", "--nproc-per-node xpu: nb_elastic counts NVIDIA GPUs and CPUs only; to count XPUs it would have to start their driver here. Give their number instead."),
    ],
)  # fmt: skip
def test_an_nproc_that_makes_no_sense_is_refused_with_the_reason(
    nproc: int | str, message: str, eight: Topology
) -> None:
    with pytest.raises(OptionError) as error:
        resolve_nproc(nproc, topology=eight, visible=[])
    assert str(error.value) == message


def test_containers_without_nvml_get_the_gpus_that_they_may_open(tmp_path: Path) -> None:
    """sysfs shows a container all the host's GPUs; starting a rank for each would fail on most."""
    root = fake_sys.write(EIGHT, tmp_path)
    for minor, index in enumerate((2, 5, 6)):
        folder = root / "proc/driver/nvidia/gpus" / fake_sys.pci_of(index)
        folder.mkdir(parents=True)
        text = f"Model: \t\t NVIDIA H100\nGPU UUID: \t {uuid_of(index)}\nDevice Minor: \t {minor}\n"
        (folder / "information").write_text(text)
    (root / "dev").mkdir()
    for minor in (0, 1):
        (root / f"dev/nvidia{minor}").touch()
    assert read(root=root, allowed=EIGHT.cpus).gpus == (
        Gpu(index=0, token="0", uuid=uuid_of(2), pci="0000:12:00.0", name="NVIDIA H100", numa_node=0),
        Gpu(index=1, token="1", uuid=uuid_of(5), pci="0000:15:00.0", name="NVIDIA H100", numa_node=1),
    )


def test_a_sick_driver_counts_no_gpu_and_says_why(tmp_path: Path) -> None:
    class Sick:
        def devices(self) -> list[NvmlDevice]:
            raise NvmlError("NVML's nvmlInit_v2 failed with code 9: the NVIDIA driver is not loaded", code=9)

    topology = read(root=fake_sys.write(EIGHT, tmp_path), nvml=Sick(), allowed=EIGHT.cpus)
    note = "No GPU is counted, because NVML's nvmlInit_v2 failed with code 9: the NVIDIA driver is not loaded."
    assert (topology.gpus, topology.notes) == ((), (note,))
    with pytest.raises(OptionError) as error:
        resolve_nproc("gpu", topology=topology, visible=[])
    assert str(error.value) == f"--nproc-per-node gpu: no GPU is visible here. {note} Give a number, cpu or auto."


@pytest.fixture(scope="module")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real shared library with NVML's names, signatures and structs, so that ctypes meets the C side."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(STUB_SOURCE)], check=True)
    return str(library)


def test_nvml_is_read_through_its_c_interface(nvml_library: str) -> None:
    name, slice_name = "NVIDIA H200", "NVIDIA H200 MIG 1g.18gb"
    expected = [
        NvmlDevice(index=0, uuid="GPU-00000000-aaaa-bbbb-cccc-dddddddddddd", pci="0000:3b:00.0", name=name),
        NvmlDevice(
            index=2,
            uuid="GPU-00000002-aaaa-bbbb-cccc-dddddddddddd",
            pci="10001:3d:00.0",
            name=name,
            memory_bytes=150754820096,
            migs=tuple(
                NvmlMig(uuid=f"MIG-00000{n}-aaaa-bbbb-cccc-dddddddddddd", name=slice_name, memory_bytes=17179869184)
                for n in (200, 202)
            ),
        ),
    ]
    nvml = CtypesNvml(nvml_library)
    assert nvml.devices() == expected
    assert nvml.devices() == expected  # it let go of the library the first time
    topology = read(root=Path("/nonexistent"), nvml=nvml, allowed=(0,))
    assert [(gpu.index, gpu.token) for gpu in topology.gpus] == [(0, "0"), (2, "1")]  # CUDA's own count


def test_nvml_that_refuses_tells_why(nvml_library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBE_FAKE_NVML_FAIL", "18")
    with pytest.raises(NvmlError) as error:
        CtypesNvml(nvml_library).devices()
    assert str(error.value) == (
        "NVML's nvmlInit_v2 failed with code 18: driver and library versions differ (reload the driver, or reboot)"
    )


def test_a_machine_without_nvml_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NvmlMissingError):
        CtypesNvml(str(tmp_path / "libnvidia-ml.so.1"))


def test_pci_ids_are_spelled_as_sysfs_spells_them() -> None:
    assert [sysfs_pci(text) for text in ("00000000:3B:00.0", "00000001:00:1F.7")] == ["0000:3b:00.0", "0001:00:1f.7"]
