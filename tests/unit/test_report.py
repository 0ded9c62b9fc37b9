"""What a rank reports reaches the metrics file, and reporting never ends a training.

A user would lose: hours of training to a metric that is no number, or the metrics themselves.
"""

import json
import math

import numpy as np
import pytest

from nb_elastic.report import ALL_BYTES, METRICS_FILE, Metrics, report


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    """Read the records of a rank with these environment variables."""
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv(METRICS_FILE, str(path))
    monkeypatch.setenv("RANK", "3")

    def read():
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    return read


def values(metrics):
    return [{k: v for k, v in record.items() if k not in {"time_ns", "rank"}} for record in metrics()]


def test_outside_a_rank_it_does_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(METRICS_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    report(1, 2, loss=object())
    assert list(tmp_path.iterdir()) == []


def test_each_report_is_a_record_with_time_and_rank(metrics):
    report(1, 10, loss=0.5, phase="train", done=False, best=None)
    report(step=np.int64(2), total=10)
    report(acc=1)
    assert values(metrics) == [
        {"step": 1, "total": 10, "loss": 0.5, "phase": "train", "done": False, "best": None},
        {"step": 2, "total": 10},
        {"acc": 1},
    ]
    times = [record["time_ns"] for record in metrics()]
    assert (times == sorted(times), {record["rank"] for record in metrics()}) == (True, {3})


def test_scalars_of_numpy_and_torch_are_numbers(metrics):
    torch = pytest.importorskip("torch")
    report(
        step=torch.tensor(4),
        a=np.float32(0.5),
        b=np.array([2]),
        c=torch.ones(1, requires_grad=True),
        d=torch.tensor(3),
        e=np.bool_(True),
        f=np.float64(0.25),
    )
    assert values(metrics) == [{"step": 4, "a": 0.5, "b": 2, "c": 1.0, "d": 3, "e": True, "f": 0.25}]


def test_nan_and_infinity_come_back_as_they_were(metrics):
    report(a=math.nan, b=math.inf, c=-math.inf, d=np.float32("nan"))
    (record,) = values(metrics)
    assert (math.isnan(record["a"]), record["b"], record["c"], math.isnan(record["d"])) == (
        True,
        math.inf,
        -math.inf,
        True,
    )


def test_what_is_no_single_number_is_recorded_as_text(metrics):
    torch = pytest.importorskip("torch")
    report(loss=torch.ones(3), pair=(1, 2), table={"a": 1}, z=1 + 2j, raw=b"x", arr=np.zeros(2))
    assert values(metrics) == [
        {
            "loss": "tensor([1., 1., 1.])",
            "pair": "(1, 2)",
            "table": "{'a': 1}",
            "z": "(1+2j)",
            "raw": "b'x'",
            "arr": "array([0., 0.])",
        }
    ]


class Bad:
    def __getattr__(self, name):
        raise KeyError(name)

    def __repr__(self):
        raise RuntimeError("no text")


class BadFloat(float):
    def __repr__(self):
        raise RuntimeError("no text")


class ListOfBad:
    def item(self):
        return [Bad()]


ODD = {
    "bad": Bad(),
    "inner": [Bad()],
    "long": 10**10_000,
    "text": "\ud800",
    "float": BadFloat(1),
    "item": ListOfBad(),
    "class": object,
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_no_value_ends_the_training(metrics, value):
    report(1, loss=value, kept=2)
    (record,) = values(metrics)
    assert (record["step"], record["kept"], "loss" in record) == (1, 2, True)


def test_long_texts_are_shortened(metrics):
    report(a="x" * 1_000_000, b=list(range(1_000_000)))
    (record,) = values(metrics)
    assert [len(v) < 1000 for v in record.values()] == [True, True]


def test_a_metric_never_overwrites_the_record_s_own_fields(metrics):
    report(1, rank="first", time_ns=0, round=7, metric_rank=5)
    (record,) = metrics()
    assert (record["rank"], record["time_ns"] > 0, "round" in record) == (3, True, False)
    assert values(metrics) == [
        {"step": 1, "metric_metric_rank": "first", "metric_time_ns": 0, "metric_round": 7, "metric_rank": 5}
    ]


@pytest.mark.parametrize("step", ["some", math.nan, [1], 10**10_000], ids=["text", "nan", "list", "long"])
def test_a_step_that_is_no_number_is_kept_as_text(metrics, step):
    report(step, loss=1)
    (record,) = values(metrics)
    assert ("step" in record, isinstance(record["metric_step"], str), record["loss"]) == (False, True, 1)


def test_an_odd_rank_variable_is_no_error(metrics, monkeypatch):
    monkeypatch.setenv("RANK", "first")
    report(loss=1)
    assert metrics()[0]["rank"] == 0


@pytest.mark.parametrize("path", ["/dev/full", "/nowhere/at/all", "/"])
def test_no_disk_error_ends_the_training(monkeypatch, path):
    monkeypatch.setenv(METRICS_FILE, path)
    report(loss=1)


class Clock:
    """Seconds that pass when told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("size", "pause_s"), [(1, 0.05), (2, 0.1), (5, 0.8)])
def test_a_loop_that_reports_without_end_fills_no_disk_and_its_last_record_is_kept(tmp_path, capsys, size, pause_s):
    path, clock = tmp_path / "metrics.jsonl", Clock()
    path.write_bytes(b" " * (size * ALL_BYTES - 1) + b"\n")
    metrics = Metrics(clock=clock)
    for step in range(100):
        metrics.write(str(path), b'{"step": %d}\n' % step)
    clock.now_s += pause_s * 0.9
    metrics.write(str(path), b'{"step": 100}\n')
    clock.now_s += pause_s * 0.2
    for step in (101, 102):
        metrics.write(str(path), b'{"step": %d}\n' % step)
    metrics.finish()
    metrics.finish()
    assert [json.loads(line)["step"] for line in path.read_bytes().split(b"\n")[1:-1]] == [0, 101, 102]
    assert capsys.readouterr().err.count("nb_elastic.report was called very often") == 1


def test_every_record_of_a_usual_training_is_kept(tmp_path):
    path, metrics = tmp_path / "metrics.jsonl", Metrics(clock=Clock())
    for step in range(500):
        metrics.write(str(path), b'{"step": %d}\n' % step)
    assert [json.loads(line)["step"] for line in path.read_bytes().splitlines()] == list(range(500))


def test_a_record_cut_by_a_full_disk_swallows_no_other(metrics, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "lo')
    report(step=2)
    assert json.loads((tmp_path / "metrics.jsonl").read_bytes().splitlines()[1])["step"] == 2
