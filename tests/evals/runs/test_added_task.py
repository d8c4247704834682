"""A new task's gain over the backbone alone, and the proof that no other task changed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Record
from cgclora.inference.request import Answer
from cgclora.models.backbone import Backbone
from cgclora.storage import adapter_dir
from cgclora.training.add_task import add_experts
from cgclora.training.task_list import grown
from evals.__main__ import main
from evals.data.datasets import Dataset
from evals.runs import added_task
from evals.runs.added_task import compare
from evals.runs.engines import LocalEngine
from evals.scoring.statistics import task_seed
from evals.tasks.recognition import own_tasks
from tests.helpers.records import lines
from tests.helpers.reference import scatter
from tests.helpers.tiny import make_backbone, save_backbone

TASKS = ("NER", "mine")
CONFIG = AdapterConfig(TASKS, common=2, specific=1, expert_rank=2, embedding_size=4)
RECORDS = tuple(Record(f"{i}", "mood", f"sentence {i}", ("good", "bad")[i % 2]) for i in range(12))


def dataset(records: Sequence[Record] = RECORDS) -> Dataset:
    own = own_tasks({"mood": records}, Path("none.toml"))
    return Dataset("made here", "dev", tuple(records), own=tuple(own))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make_backbone()


@pytest.fixture
def base(backbone: Backbone, tmp_path: Path) -> Path:
    adapter = scatter(Adapter.attach(backbone, CONFIG))
    adapter.save(tmp_path / "base")
    adapter.detach()
    return tmp_path / "base"


def grow(backbone: Backbone, base: Path, folder: Path, **changes: torch.Tensor) -> Path:
    """The base with the task `mood`, whose experts have values of their own; some tensors differ.

    The folder is whole: what differs is no damage of a file.
    """
    tensors = add_experts(adapter_dir.read_tensors(base), CONFIG, 1, seed=3)
    new = slice(-CONFIG.expert_rank, None)
    generator = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if name.endswith(".expert_B"):
            tensor[:, new] = torch.randn(tensor[:, new].shape, generator=generator)
    manifest, _ = adapter_dir.read_manifest(base)
    facts = {"backbone": manifest["backbone"]}
    adapter_dir.write(folder, grown(CONFIG, ["mood"]), {**tensors, **changes}, facts)
    return folder


def test_all_other_tasks_are_the_same_bit_for_bit(
    backbone: Backbone, base: Path, tmp_path: Path
) -> None:
    steps = []
    report = compare(
        backbone,
        base,
        grow(backbone, base, tmp_path / "grown"),
        dataset(),
        progress=lambda *step: steps.append(step),
    )
    # By hand: of 14 layers the common experts and one of its own, 3 * 2 ranks, and their gates.
    sizes = {module.in_features + module.out_features for module in linears(backbone)}
    assert len(sizes) > 1
    ranks = 6 * sum(module.in_features + module.out_features for module in linears(backbone))
    gates = 4 * (1 + 3 * len(linears(backbone)))
    assert report["unchanged"] == {
        task: {
            "identical": True,
            "weights": ranks + gates,
            "changed": [],
            "prompts": 3,
            "tokens": 8,
            "difference": 0.0,
        }
        for task in TASKS
    }
    assert steps[-1] == (2 * 12 + 2 * 3,) * 2
    assert len(steps) == 30


def linears(backbone: Backbone) -> list[torch.nn.Linear]:
    layers = backbone.model.model.layers
    return [module for module in layers.modules() if isinstance(module, torch.nn.Linear)]


def test_a_changed_weight_is_found_for_the_tasks_that_use_it(
    backbone: Backbone, base: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.down_proj.expert_B"
    whole = adapter_dir.read_tensors(grow(backbone, base, tmp_path / "grown"))[name]
    for column, those in ((0, {*TASKS}), (2 * CONFIG.common, {"NER"}), (-1, set())):
        changed = whole.clone()
        changed[0, column] += 1  # of a common expert, of that of NER, of the new task
        folder = grow(backbone, base, tmp_path / f"changed{column}", **{name: changed})
        unchanged = compare(backbone, base, folder, dataset(RECORDS[:2]))["unchanged"]
        assert {task for task, facts in unchanged.items() if facts["changed"] == [name]} == those
        assert {task for task, facts in unchanged.items() if facts["difference"] > 0} == those
        assert {task for task, facts in unchanged.items() if not facts["identical"]} == those


def test_a_weight_whose_zero_changed_its_sign_is_found_though_no_logit_differs(
    backbone: Backbone, base: Path, tmp_path: Path
) -> None:
    tensors = adapter_dir.read_tensors(base)
    tensors["gate.embedding"][0, 0] = 0.0
    manifest, _ = adapter_dir.read_manifest(base)
    adapter_dir.write(base, CONFIG, tensors, {"backbone": manifest["backbone"]})
    embedding = torch.cat([tensors["gate.embedding"], torch.ones(1, 4)])
    embedding[0, 0] = -0.0
    folder = grow(backbone, base, tmp_path / "grown", **{"gate.embedding": embedding})
    unchanged = compare(backbone, base, folder, dataset(RECORDS[:2]))["unchanged"]
    assert unchanged["NER"]["changed"] == ["gate.embedding"]
    assert unchanged["NER"]["difference"] == 0
    assert not unchanged["NER"]["identical"]
    assert unchanged["mine"]["identical"]


def test_the_new_task_is_compared_with_the_backbone_alone(
    backbone: Backbone, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone gets every third record right, the adapter all but one."""

    def answers(
        _: Backbone, requests: Sequence[Any], adapters: Sequence[Adapter | None], **__: Any
    ) -> Iterator[tuple[int, Answer]]:
        for i, adapter in reversed([*enumerate(adapters)]):
            number = int(requests[i].prompt.split()[1])
            right = number != 7 if adapter else number % 3 == 0
            yield i, Answer(RECORDS[number].target if right else "neither", "end", 1, 1, 0.0)

    monkeypatch.setattr(added_task, "answers_of", answers)
    folder = grow(backbone, base, tmp_path / "grown")
    report = compare(backbone, base, folder, dataset())
    facts = report["tasks"]["mood"]
    assert (facts["metric"], facts["records"]) == ("accuracy", 12)
    assert facts["before"]["value"] == pytest.approx(4 / 12)
    assert facts["after"]["value"] == pytest.approx(11 / 12)
    assert facts["gain"]["value"] == pytest.approx(7 / 12)
    # The interval by hand: the same resamples of the records' differences, one by one.
    gains = np.array([(i != 7) - (i % 3 == 0) for i in range(12)])
    chosen = np.random.default_rng((task_seed("mood"), 0, 0)).integers(12, size=(10_000, 12))
    low, high = np.quantile(gains[chosen].mean(axis=1), [0.025, 0.975])
    assert (facts["gain"]["low"], facts["gain"]["high"]) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    assert (report["data"]["records"], report["data"]["split"]) == (12, "dev")


def test_what_cannot_be_compared_is_refused(backbone: Backbone, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the base with more tasks"):
        compare(backbone, base, base, dataset())
    folder = grow(backbone, base, tmp_path / "grown")
    with pytest.raises(ConfigError, match="not the base with more tasks"):
        compare(backbone, folder, base, dataset())
    with pytest.raises(DataError, match="mood: no record"):
        compare(backbone, base, folder, dataset((Record("1", "NER", "a", "b"),)))
    scatter(other := Adapter.attach(backbone, AdapterConfig((*TASKS, "mood")), name="other"))
    other.save(tmp_path / "other")
    other.detach()
    with pytest.raises(ConfigError, match="common differs"):
        compare(backbone, base, tmp_path / "other", dataset())


def test_the_command_trains_measures_and_goes_on_after_an_interruption(
    backbone: Backbone, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_backbone(tmp_path / "model")
    rows = [{"task": r.task, "input": r.prompt, "target": r.target} for r in RECORDS]
    data = str(lines(tmp_path / "data" / "new.jsonl", *rows))
    model = ["--backbone", str(tmp_path / "model"), "--device", "cpu"]
    run = ["add-task", "--adapter", str(base), "--data", data, "--dev", data, *model]
    run += ["--run", str(tmp_path / "run"), "--learning-rate", "0.05", "--epochs", "1"]
    assert main([*run, "--json"]) == 0
    folder = tmp_path / "run" / "adapter"
    report = json.loads(capsys.readouterr().out)
    manifest, config = adapter_dir.read_manifest(folder)
    assert manifest["added"] == report
    assert config.tasks == (*TASKS, "mood")
    assert list(report["tasks"]) == ["mood"]
    assert all(facts["identical"] for facts in report["unchanged"].values())
    # As if it was killed between training and measuring: the same command measures.
    weights = (folder / adapter_dir.WEIGHTS_FILE).read_bytes()
    adapter_dir.annotate(folder, {"added": None})
    assert main(run) == 0
    shown = capsys.readouterr().out
    assert "mood: " in shown
    assert shown.count("unchanged, 0 tensors differ, logits by 0 at most") == 2
    again, _ = adapter_dir.read_manifest(folder)
    assert again["added"]["unchanged"] == report["unchanged"]
    assert again["added"]["tasks"] == report["tasks"]
    assert (folder / adapter_dir.WEIGHTS_FILE).read_bytes() == weights
    assert main(["added", str(folder), "--base", str(base), "--data", data, *model]) == 0
    assert capsys.readouterr().out == shown
    adapter = Adapter.load(folder, backbone)
    facts = LocalEngine(backbone, {"mood": adapter.for_inference()}).facts(["mood"])
    assert "added" not in facts["adapters"][0]["manifest"]
    adapter.detach()
