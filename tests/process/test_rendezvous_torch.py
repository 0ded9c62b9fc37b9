"""What we rely on in torch: its private names, and the shape of its rendezvous state.

When one of these fails after a new torch came out, read the docstring of ``supervisor/rendezvous_c10d.py``.
"""

from __future__ import annotations

import inspect
import pickle
from datetime import datetime, timedelta, timezone

import pytest
from torch.distributed import HashStore, PrefixStore
from torch.distributed.elastic.rendezvous import RendezvousStateError, dynamic_rendezvous

from nb_elastic.model_options import LaunchOptions
from nb_elastic.supervisor import rendezvous_c10d, rendezvous_quick
from nb_elastic.supervisor.rendezvous import make_handler
from nb_elastic.supervisor.rendezvous_sealed import SealedBackend, decode_state, encode_state

NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)


def make(notes):
    options = LaunchOptions(standalone=True)
    return make_handler(options, rdzv_id="test", key=b"secret", nproc=1, note=notes.append).handler


def a_state(**changes):
    """A rendezvous state with something in every field."""
    first, second = (dynamic_rendezvous._NodeDesc(f"10.0.0.{n}", 100 + n, 0) for n in (1, 2))
    state = dynamic_rendezvous._RendezvousState()
    state.round = 3
    state.complete = True
    state.deadline = NOW + timedelta(seconds=3)
    state.participants = {first: 1, second: 0}
    state.wait_list = {second}
    state.redundancy_list = {first}
    state.last_heartbeats = {first: NOW, second: NOW - timedelta(seconds=1)}
    vars(state).update(changes)
    return state


def test_torch_still_has_the_names_that_the_cures_touch():
    handler = make([])
    missing = [name for name in rendezvous_c10d.PRIVATE_NAMES if not hasattr(handler, name)]
    handler.shutdown()
    assert missing == []


def test_without_those_names_rank_0_hosts_the_store_and_the_user_is_told(monkeypatch):
    """An unknown torch still restarts well: by the variable that torch offers for it."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0")
    monkeypatch.setattr(rendezvous_c10d, "PRIVATE_NAMES", ("_a_name_that_is_gone",))
    notes = []
    handler = make(notes)
    assert not handler.use_agent_store
    assert [handler.next_rendezvous().world_size for _ in range(2)] == [1, 1]
    assert handler.num_nodes_waiting() == 0
    handler.shutdown()
    assert [note for note in notes if "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in note] == notes != []


def test_torch_still_has_the_names_by_which_a_group_forms_at_once():
    handler = make([])
    assert rendezvous_quick.can_be_quick(handler._state_holder)
    handler.shutdown()
    loop = inspect.getsource(dynamic_rendezvous._DistributedRendezvousOpExecutor.run)
    assert "_delay(seconds=1)" in loop
    assert "_delay(seconds=(0, 0.3))" in inspect.getsource(dynamic_rendezvous.DynamicRendezvousHandler.next_rendezvous)
    assert "self._cache_duration > 0" in inspect.getsource(dynamic_rendezvous._BackendRendezvousStateHolder.sync)
    assert list(inspect.signature(dynamic_rendezvous.get_method_name).parameters) == ["depth"]


def test_torchs_own_pace_comes_back_when_the_group_has_formed():
    """Keep-alives and looks for newcomers go on for as long as the run lasts."""
    before = dynamic_rendezvous._delay
    handler = make([])
    handler.next_rendezvous()
    assert (dynamic_rendezvous._delay, handler._state_holder._cache_duration) == (before, 1)
    handler.shutdown()


def test_without_those_names_a_group_forms_at_torchs_pace(monkeypatch):
    monkeypatch.setattr(rendezvous_quick, "MODULE_NAMES", ("_a_name_that_is_gone",))
    handler = make([])
    assert [handler.next_rendezvous().world_size for _ in range(2)] == [1, 1]
    handler.shutdown()


def test_torchs_record_names_the_same_callers():
    def recorded(depth=2):
        return rendezvous_quick._name_of_caller(depth)

    assert recorded(1) == "recorded"
    assert recorded(2) == "test_torchs_record_names_the_same_callers"
    assert recorded(10_000) == "no_method_name"


def test_a_state_survives_the_journey_as_json():
    for state in (
        a_state(),
        a_state(deadline=None, participants={}, closed=True),
        dynamic_rendezvous._RendezvousState(),
    ):
        assert vars(decode_state(encode_state(state))) == vars(state)


def test_a_state_with_more_in_it_than_we_know_is_refused():
    with pytest.raises(RendezvousStateError, match="differs from the one nb_elastic knows \\(colour\\)"):
        encode_state(a_state(colour="red"))


@pytest.mark.parametrize("text", ["", "{}", "null", "[1]", '{"round": "x"}', "[" * 100_000])
def test_what_is_no_state_is_refused(text):
    with pytest.raises(RendezvousStateError):
        decode_state(text)


class TestSealedBackend:
    def setup_method(self):
        self.store = HashStore()
        self.ours = SealedBackend(self.store, "run", b"key")
        now = datetime.now(timezone.utc)
        beats = dict.fromkeys(a_state().last_heartbeats, now)
        self.said = a_state(deadline=now + timedelta(seconds=3), last_heartbeats=beats)  # by clocks that agree
        self.state = pickle.dumps(self.said)

    def test_a_state_is_written_once_and_read_by_all(self):
        assert self.ours.get_state() is None
        _, token, has_set = self.ours.set_state(self.state)
        other = SealedBackend(self.store, "run", b"key")
        found, other_token = other.get_state()
        assert (has_set, other_token, vars(pickle.loads(found))) == (True, token, vars(self.said))

    def test_of_two_writers_one_wins_and_the_other_knows(self):
        _, token, _ = self.ours.set_state(self.state)
        other = SealedBackend(self.store, "run", b"key")
        _, newer, first = self.ours.set_state(self.state, token)
        found, token_now, second = other.set_state(self.state, token)
        assert (first, second, token_now) == (True, False, newer), "though both wrote the same state"
        assert vars(pickle.loads(found)) == vars(self.said)

    @pytest.mark.parametrize("forged", ["", "x", "a.b.{}", "nb_elastic: no state yet"])
    def test_what_others_write_is_refused(self, forged):
        _, token, _ = self.ours.set_state(self.state)
        self.store.set("nb_elastic.rendezvous.run", forged)
        with pytest.raises(RendezvousStateError, match="somebody who doesn't have the key"):
            self.ours.get_state()
        with pytest.raises(RendezvousStateError, match="somebody who doesn't have the key"):
            self.ours.set_state(self.state, token)

    def test_a_state_of_another_run_or_key_is_refused(self):
        for name, key in (("other", b"key"), ("run", b"other key")):
            theirs = SealedBackend(PrefixStore(name, HashStore()), name, key)
            _, token, _ = theirs.set_state(self.state)
            self.store.set("nb_elastic.rendezvous.run", token)
            with pytest.raises(RendezvousStateError, match="another key"):
                self.ours.get_state()
