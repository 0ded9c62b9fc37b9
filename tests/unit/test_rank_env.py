"""A rank's environment: the user's settings win over defaults, torchrun's variables over everything."""

from __future__ import annotations

from pathlib import Path

from nb_elastic.model import Entrypoint, LaunchSpec
from nb_elastic.model_options import LaunchOptions
from nb_elastic.rundir import RankDir
from nb_elastic.supervisor import rank_env
from nb_elastic.supervisor.rank_env import Place

PLACE = Place(
    rank=5, local_rank=1, role_rank=5, world_size=8, role_world_size=8, local_world_size=4, group_rank=1, group_world_size=2,
    master_addr="10.0.0.1", master_port=29500, restart_count=2, uses_agent_store=True,
)  # fmt: skip


def _env(*, env=None, options_env=None, cpus=16, cuda_visible=None, defaults=None, **options):
    spec = LaunchSpec(
        run_id="r",
        rdzv_id="rdzv",
        run_dir="/runs/r",
        entrypoint=Entrypoint(kind="script", target="x.py"),
        options=LaunchOptions(env=options_env or {}, **options),
        env=env or {},
        cwd="/",
    )
    folder = RankDir(Path("/runs/r/round_0/1"))
    return rank_env.build(spec, PLACE, folder=folder, defaults=defaults or {}, cpus=cpus, cuda_visible=cuda_visible)


def test_each_rank_gets_its_share_of_the_cpus_unless_the_user_says_otherwise():
    assert _env()["OMP_NUM_THREADS"] == "4"
    assert _env(cpus=2)["OMP_NUM_THREADS"] == "1"
    assert _env(env={"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_env_options_win_over_the_notebooks_and_the_rendezvous_defaults():
    got = _env(
        env={"A": "notebook", "GLOO_SOCKET_IFNAME": "eth7"},
        options_env={"A": "option"},
        defaults={"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"},
    )
    assert (got["A"], got["GLOO_SOCKET_IFNAME"], got["NCCL_SOCKET_IFNAME"]) == ("option", "eth7", "lo")


def test_nobody_can_change_a_ranks_number():
    got = _env(env={"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "old", "LOCAL_RANK": "9"})
    assert (got["RANK"], got["LOCAL_RANK"], got["WORLD_SIZE"], got["TORCHELASTIC_RUN_ID"]) == ("5", "1", "8", "rdzv")
    assert (got["TORCHELASTIC_RESTART_COUNT"], got["GROUP_RANK"], got["MASTER_PORT"]) == ("2", "1", "29500")


def test_a_virtual_local_rank_sees_one_gpu_as_its_first():
    got = _env(virtual_local_rank=True, cuda_visible="GPU-7", env={"CUDA_VISIBLE_DEVICES": "0,1,7"})
    assert (got["LOCAL_RANK"], got["CUDA_VISIBLE_DEVICES"]) == ("0", "GPU-7")
    assert _env(env={"CUDA_VISIBLE_DEVICES": "0,1,7"})["CUDA_VISIBLE_DEVICES"] == "0,1,7"
