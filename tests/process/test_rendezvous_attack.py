"""Someone who reaches the rendezvous' port gets no code run, whatever they write there.

A user would lose: the machine. On a shared server, every other user reaches a loopback port.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nb_elastic.model import to_json
from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import addresses
from nb_elastic.supervisor.rendezvous_sealed import hidden_name
from tests.support.nodes import nodes

ROOT = Path(__file__).parents[2]
PROGRAM = "tests.programs.out_of_step:work_for_ever"
KNOWN_KEYS = ["torch.rendezvous.a-secret-id", f"nb_elastic.rendezvous.{hidden_name('a-secret-id')}"]
pytestmark = pytest.mark.slow


@pytest.fixture
def port():
    with addresses.listen("127.0.0.1") as free:
        return free.getsockname()[1]


def attack(port, marker):
    """Run the attacker; the store's keys."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.store_attacker", str(port), str(marker), *KNOWN_KEYS],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def options(port, **more):
    return to_json(LaunchOptions(nnodes="1:2", rdzv_endpoint=f"127.0.0.1:{port}", rdzv_id="a-secret-id", **more))


def test_a_forged_state_runs_no_code_and_is_told(port, tmp_path):
    marker = tmp_path / "code-ran"
    with nodes() as start:
        node = start(options=options(port), program=PROGRAM, rdzv_id="a-secret-id")
        node.wait_for("ready")
        keys = attack(port, marker)
        end = node.end()
    assert not marker.exists()
    assert end["error"] == "RendezvousStateError"
    assert end["text"].startswith("The rendezvous state was written by somebody who doesn't have the key of this run")
    assert keys, "the attacker saw the store's keys"
    assert not [key for key in keys if "a-secret-id" in key], "and none gives the id away"


def test_the_same_attack_does_run_code_in_torchs_own_rendezvous(port, tmp_path):
    """If this fails, torch has closed the hole (good), or the attack above no longer proves anything."""
    marker = tmp_path / "code-ran"
    conf = {"last_call_timeout": "1", "is_host": "1"}
    with nodes() as start:
        node = start(options=options(port, rdzv_conf=conf), program=PROGRAM, rdzv_id="a-secret-id", is_stock=True)
        node.wait_for("ready")
        keys = attack(port, marker)
        node.end()
    assert marker.exists()
    assert [key for key in keys if "a-secret-id" in key]


def test_a_node_with_another_key_is_told(port):
    """Two runs that met by accident, or a typing error in the key, end in a clear sentence."""
    with nodes() as start:
        first = start(options=options(port, rdzv_conf={"key": "one"}), program=PROGRAM, rdzv_id="a-secret-id")
        first.wait_for("ready")
        second = start(options=options(port, rdzv_conf={"key": "two"}), program=PROGRAM, rdzv_id="a-secret-id")
        end = second.end()
        assert first.process.poll() is None, "the run that was there goes on"
    assert (end["error"], "another key" in end["text"]) == ("RendezvousStateError", True)
