"""Each rank is shown its own part of the GPUs, and a driver that fails or hangs costs the numbers only."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from nb_elastic.nvml import NvmlError, NvmlMissingError
from nb_elastic.nvml_usage import DeviceUsage, NvmlGauge
from nb_elastic.supervisor.gpus import GpuUsage, GpuWatch, attribute
from tests.support.until import until

STUB_SOURCE = Path(__file__).parents[1] / "support" / "fake_nvml.c"
GIB = 1 << 30
BUSY = DeviceUsage(
    used_bytes=7 * GIB, total_bytes=80 * GIB, percent=95.0, memory_of={11: 4 * GIB, 12: GIB, 77: 2 * GIB},
    percent_of={11: 60.0, 12: 10.0, 77: 25.0},
)  # fmt: skip
IDLE = DeviceUsage(used_bytes=GIB, total_bytes=80 * GIB, percent=0.0, percent_of={})


def here(_pid: int) -> bool:
    return True


def elsewhere(_pid: int) -> bool:
    return False


def test_a_rank_is_shown_what_all_its_processes_use() -> None:
    found = attribute({"a": BUSY, "b": IDLE}, {0: "a", 1: "b"}, {0: [11, 12], 1: [13]}, is_known=here)
    assert found == {
        0: GpuUsage(percent=70.0, memory_bytes=5 * GIB, memory_total_bytes=80 * GIB),
        1: GpuUsage(percent=0.0, memory_bytes=GIB, memory_total_bytes=80 * GIB),
    }


def test_a_rank_on_several_gpus_is_shown_their_sum() -> None:
    other = DeviceUsage(used_bytes=GIB, total_bytes=40 * GIB, memory_of={11: GIB}, percent_of={11: 20.0})
    found = attribute({"a": BUSY, "b": other}, {0: "a"}, {0: [11]}, is_known=here)
    assert found == {0: GpuUsage(percent=40.0, memory_bytes=5 * GIB, memory_total_bytes=120 * GIB)}


def test_somebody_else_s_work_on_the_gpu_is_not_the_rank_s() -> None:
    assert attribute({"a": BUSY}, {0: "a"}, {0: [5]}, is_known=here) == {
        0: GpuUsage(percent=0.0, memory_bytes=0, memory_total_bytes=80 * GIB)
    }


def test_in_a_container_whose_pids_differ_a_rank_is_shown_its_gpu_as_a_whole() -> None:
    found = attribute({"a": BUSY}, {0: "a"}, {0: [5]}, is_known=elsewhere)
    assert found == {0: GpuUsage(percent=95.0, memory_bytes=7 * GIB, memory_total_bytes=80 * GIB)}


def test_where_busyness_is_not_told_by_process_only_a_gpu_of_one_rank_has_it() -> None:
    bare = DeviceUsage(used_bytes=7 * GIB, total_bytes=80 * GIB, percent=95.0, memory_of={11: GIB, 12: GIB})
    alone = attribute({"a": bare}, {0: "a"}, {0: [11]}, is_known=here)
    shared = attribute({"a": bare}, {0: "a", 1: "a"}, {0: [11], 1: [12]}, is_known=here)
    assert (alone[0].percent, shared[0].percent, shared[1].percent) == (95.0, None, None)
    assert shared[0].record() == {"gpu_memory_bytes": GIB, "gpu_memory_total_bytes": 80 * GIB}


def test_a_gpu_that_does_not_answer_leaves_its_rank_out() -> None:
    assert attribute({"b": IDLE}, {0: "a"}, {0: [11]}, is_known=here) == {}


class Gauge:
    """A pretended NVML."""

    def __init__(self, look: DeviceUsage | NvmlError | None = None, *, hang: threading.Event | None = None) -> None:
        self.answer = look
        self.hang = hang
        self.looks = 0
        self.is_open = False

    def open(self) -> None:
        self.is_open = True
        if self.answer is None and self.hang is None:
            raise NvmlMissingError("none")

    def look(self, uuid: str) -> DeviceUsage:
        self.looks += 1
        if self.hang:
            self.hang.wait()
        if isinstance(self.answer, NvmlError):
            raise self.answer
        assert self.answer
        return self.answer

    def close(self) -> None:
        self.is_open = False


def watch(gauge: Gauge) -> GpuWatch:
    made = GpuWatch({0: "a", 1: ""}, ["a", ""], lambda: {0: [11]}, make_gauge=lambda: gauge)
    made.start()
    return made


def test_the_watch_asks_and_lets_go() -> None:
    gauge = Gauge(BUSY)
    made = watch(gauge)
    found = until(made.last)
    made.end()
    made.join()
    assert found[0] == GpuUsage(percent=60.0, memory_bytes=4 * GIB, memory_total_bytes=80 * GIB)
    assert not gauge.is_open


@pytest.mark.parametrize("gauge", [Gauge(), Gauge(NvmlError("a GPU fell off the bus", code=15))])
def test_a_driver_that_fails_leaves_the_numbers_out(gauge: Gauge) -> None:
    made = watch(gauge)
    until(lambda: gauge.looks or not made._thread.is_alive())
    made.end()
    made.join()
    assert made.last() == {}


def test_a_driver_that_hangs_keeps_nobody_waiting() -> None:
    hang = threading.Event()
    gauge = Gauge(BUSY, hang=hang)
    made = watch(gauge)
    until(lambda: gauge.looks)
    made.end()
    made.join()  # comes back
    assert made.last() == {}
    hang.set()
    until(lambda: not made._thread.is_alive())


def test_without_a_gpu_there_is_no_thread() -> None:
    made = GpuWatch({0: ""}, [], dict)
    made.start()
    made.end()
    made.join()
    assert made._thread.ident is None


@pytest.fixture(scope="module")
def gauge(tmp_path_factory: pytest.TempPathFactory) -> NvmlGauge:
    """NVML's C interface over a real shared library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(STUB_SOURCE)], check=True)
    return NvmlGauge(str(library))


def test_usage_is_read_through_the_c_interface(gauge: NvmlGauge) -> None:
    gpu, mig = "GPU-00000002-aaaa-bbbb-cccc-dddddddddddd", "MIG-00000200-aaaa-bbbb-cccc-dddddddddddd"
    gauge.open()
    try:
        first, second, slice_ = gauge.look(gpu), gauge.look(gpu), gauge.look(mig)
        with pytest.raises(NvmlError):
            gauge.look("nonsense")
    finally:
        gauge.close()
    assert first == DeviceUsage(
        used_bytes=2,
        total_bytes=150754820096,
        percent=97.0,
        memory_of={4242: 5 * GIB, 4243: 0},
        percent_of={4242: 85.0},
    )
    assert second.percent_of == {}  # nothing new since
    assert slice_ == DeviceUsage(used_bytes=2, total_bytes=17179869184)
