"""What trackers are told of a run, and what becomes of one that fails or is not there."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.storage.run_dir import TrainingStopped
from cgclora.training.runs import trackers
from cgclora.training.runs.trackers import TRACKERS, Trackers, curves
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.train import train_side_by_side
from tests.helpers.tiny import make_backbone
from tests.helpers.training_runs import DEV, PLAIN, SETTINGS, TASKS, TRAIN, log_of, run


class Book:
    """A tracker in memory."""

    def __init__(self, run: TrainingRun, step: int) -> None:
        self.name, self.first, self.closed = run.folder.name, step, False
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.points.setdefault(name, []).append((step, value))

    def finish(self) -> None:
        self.closed = True


class Broken(Book):
    def log(self, values: dict[str, float], step: int) -> None:
        if step > 2:
            raise ConnectionError("no route to the tracker")
        super().log(values, step)


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> list[Book]:
    made: list[Book] = []

    def start(kind: type[Book]) -> Any:
        return lambda *facts: made.append(kind(*facts)) or made[-1]

    starts = MappingProxyType({"wandb": start(Book), "mlflow": start(Broken)})
    monkeypatch.setattr(trackers, "_STARTS", starts)
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    return made


def test_each_run_side_by_side_is_a_run_of_its_own_with_its_whole_log(books, tmp_path):
    backbone = make_backbone()
    runs = [
        TrainingRun(
            Adapter.attach(backbone, PLAIN, name=name, seed=seed),
            TRAIN,
            DEV,
            TrainingSettings(**{**SETTINGS, "gate_learning_rate": 0.03, "seed": seed}),
            tmp_path / name,
        )
        for name, seed in {"a": 0, "b": 1}.items()
    ]
    train_side_by_side(runs, backbone.tokenizer, progress=lambda _: None, report_to=["wandb"])
    assert [book.name for book in books] == ["a", "b"]
    for book in books:
        assert book.closed
        log = log_of(tmp_path / book.name)
        steps = [line for line in log if "loss" in line]
        dev = [line for line in log if "dev_loss" in line]
        assert book.points["train/loss"] == [(one["step"], one["loss"]) for one in steps]
        rates = [(one["step"], one["learning_rate"]) for one in steps]
        assert book.points["train/learning_rate"] == rates
        gate = [(step, pytest.approx(3 * rate)) for step, rate in rates]
        assert book.points["train/gate_learning_rate"] == gate
        for task in TASKS:
            values = [(one["step"], one["dev_losses"][task]) for one in dev]
            assert book.points[f"dev loss/{task}"] == values


def test_a_line_is_told_by_task_and_by_expert():
    config = AdapterConfig(("x", "y"), common=2, specific=1)
    facts = {
        "loss": 2.0,
        "losses": {"y": 3.0},
        "gates": [[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.0, 0.5]],
        "learning_rate": 0.1,
        "grad_norm": 7.0,
        "dev_score": 0.6,
        "dev_scores": {"x": 0.2, "y": 1.0},
    }
    assert curves(facts, config, TrainingSettings(learning_rate=0.2)) == {
        **{"train/loss": 2.0, "train loss/y": 3.0, "train/grad_norm": 7.0},
        **{"dev/score": 0.6, "dev score/x": 0.2, "dev score/y": 1.0},
        **{"train/learning_rate": 0.1, "train/gate_learning_rate": 0.1},
        **{"gate/x/common-1": 0.5, "gate/x/common-2": 0.3, "gate/x/specific-1": 0.2},
        **{"gate/y/common-1": 0.25, "gate/y/common-2": 0.25, "gate/y/specific-1": 0.5},
    }
    lora = AdapterConfig.lora(("x", "y"), 4)
    told = curves({**facts, "gates": [[1.0], [1.0]]}, lora, TrainingSettings())
    assert not [name for name in told if "gate" in name]


def test_a_tracker_that_fails_ends_no_training(books, tmp_path, capsys):
    run(tmp_path, report_to=["mlflow", "wandb"])
    broken, whole = sorted(books, key=lambda book: type(book) is Book)
    assert [step for step, _ in broken.points["train/loss"]] == [1, 2]
    assert [step for step, _ in whole.points["train/loss"]] == [*range(1, 10)]
    assert capsys.readouterr().err.count("mlflow takes no more reports") == 1


def test_what_is_not_installed_is_said_before_anything_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    for name in TRACKERS:
        with pytest.raises(ConfigError, match=f"pip install {name}"):
            Trackers([name])
    with pytest.raises(ConfigError, match="choose from tensorboard, wandb, mlflow, trackio"):
        Trackers(["paper"])
    words = ["train", "--data", "no", "--dev", "no", "--run", str(tmp_path / "run")]
    assert main([*words, "--report-to", "tensorboard"]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_tensorboard_shows_the_log_also_of_a_resumed_run(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    left = iter(range(4))
    with pytest.raises(TrainingStopped):
        run(tmp_path, report_to=["tensorboard"], stop=lambda: next(left, None) is None)
    run(tmp_path, report_to=["tensorboard"])
    shown = events.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    ours = [(one["step"], one["loss"]) for one in log_of(tmp_path) if "loss" in one]
    theirs = [(one.step, one.value) for one in shown.Scalars("train/loss")]
    assert theirs == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in ours]
    assert "gate/mood/specific-1" in shown.Tags()["scalars"]
    assert "dev loss/last letter" in shown.Tags()["scalars"]
