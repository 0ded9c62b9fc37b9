"""What a real driver tells of the GPUs' use: without a CUDA context here, and with one in a rank."""

from __future__ import annotations

import json

import pytest

from nb_elastic.nvml import CtypesNvml, NvmlError
from nb_elastic.nvml_usage import NvmlGauge
from tests.support import supervise
from tests.support.until import until

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def uuid() -> str:
    """A GPU of this machine."""
    try:
        devices = CtypesNvml().devices()
    except NvmlError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    if not devices:
        pytest.skip("needs an NVIDIA GPU")
    return devices[0].uuid


def test_the_driver_answers_in_the_layout_that_we_read(uuid: str) -> None:
    gauge = NvmlGauge()
    gauge.open()
    try:
        found = [gauge.look(uuid) for _ in range(2)]
    finally:
        gauge.close()
    assert all(0 < one.used_bytes < one.total_bytes for one in found)
    assert all(one.percent is None or 0 <= one.percent <= 100 for one in found)


def test_a_rank_s_memory_on_its_gpu_is_in_the_usage_file(uuid: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    del uuid
    monkeypatch.setenv("NBE_TEST_FOLDER", str(tmp_path))
    with supervise.start(supervise.entry("holds_gpu_memory.py"), nproc=1) as one:

        def told() -> dict[str, float]:
            lines = one.run.usage().read_bytes().splitlines() if one.run.usage().exists() else []
            rank = json.loads(lines[-1])["ranks"][0] if lines else {}
            return rank if rank.get("gpu_memory_bytes", 0) > 1 << 30 else {}

        rank = until(told, 60, "the rank's gibibyte")
        (tmp_path / "end").touch()
        one.wait()
    assert rank["gpu_memory_bytes"] < rank["gpu_memory_total_bytes"]
    assert one.state == "succeeded", one.log
