"""A whole comparison on a tiny model: every method, in bits, resumed, and shared by two."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cgclora.config import AdapterConfig, ConfigError, PromptFormat
from cgclora.data.records import DataError
from cgclora.data.task_table import DESCRIPTIONS
from cgclora.models.backbone import Backbone, fingerprint
from cgclora.storage.run_dir import TrainingError
from evals.experiments import grid as matrix_module
from evals.experiments.grid import Grid
from evals.experiments.recipe import Recipe, read_recipe, recipe_from_dict
from evals.leaderboard.board import boards
from evals.methods import ADDED, METHODS, compared
from evals.runs.run_dir import RunError, find_runs, read_run
from evals.tasks import TASKS
from tests.helpers.templates import CHATML, chat_tokenizer
from tests.helpers.tiny import make_backbone, make_model

ASSETS = Path(__file__).parents[3] / "assets"

VALUES: dict[str, Any] = {
    "name": "tiny",
    "learning_rates": [1e-3, 1e-2],
    "clusters": {"medical": ["KUAKE-QIC", "IMCS-V2-NER"], "general": ["NER"]},
    "records": {"train": 4, "dev": 2, "test": 3},
    "sizes": {"lora_rank": 2, "common": 2, "moe_experts": 2, "moe_rank": 4},
    "training": {"epochs": 1, "batch_size": 2, "evaluations": 2},
    "search": {"examples": 2, "evaluations": 6},
}


def recipe(**changes: Any) -> Recipe:
    return recipe_from_dict({**VALUES, **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "dev", "test"):
        lines = []
        for place in range(5):
            for task, target in (
                ("KUAKE-QIC", "治疗方案"),
                ("IMCS-V2-NER", "症状实体：头痛"),
                ("NER", "人名：王小明"),
            ):
                record = {
                    "task_dataset": task,
                    "input": f"{split} {place} {task}",
                    "target": target,
                    "sample_id": f"{split}-{task}-{place}",
                }
                if task == "KUAKE-QIC":
                    record["answer_choices"] = ["治疗方案", "病情诊断"]
                lines.append(json.dumps(record, ensure_ascii=False))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def made(source: Path, out: Path, **changes: Any) -> Grid:
    return Grid(recipe(**changes), make_backbone(), source, out)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole")
    outcome = made(source, out).run()
    assert (outcome.done, outcome.left) == (2 * len(compared()), ())
    return out


def said(out: Path) -> dict[str, list[str]]:
    """The answers of each run by its place."""
    runs = [read_run(folder) for folder in find_runs(out / "runs")]
    return {
        str(run.folder.relative_to(out)): run.predictions()["prediction"].tolist() for run in runs
    }


def manifest_of(out: Path, cell: str) -> dict[str, Any]:
    return dict(read_run(out / "runs" / cell / "seed-0").manifest)


def test_every_method_has_a_scored_run_in_every_cluster(whole):
    runs = [read_run(folder) for folder in find_runs(whole / "runs")]
    methods = sorted(run.manifest["method"] for run in runs)
    assert methods == sorted([*compared(), *compared()])
    assert all(run.metrics is not None for run in runs)
    assert all(run.manifest["recipe"]["name"] == "tiny" for run in runs)


def test_the_learning_rate_with_the_lowest_dev_loss_answers(whole):
    facts = manifest_of(whole, "medical/cgc-lora")
    tried = {float(rate): loss for rate, loss in facts["dev_losses"].items()}
    assert set(tried) == {1e-3, 1e-2}
    assert facts["learning_rate"] == min(tried, key=tried.__getitem__)
    (adapter,) = facts["adapters"]
    settings = adapter["manifest"]["training"]["settings"]
    assert settings["learning_rate"] == facts["learning_rate"]
    assert settings["gate_learning_rate"] == pytest.approx(3 * facts["learning_rate"])


def test_a_recipe_may_choose_weights_and_rate_by_the_scores_of_dev_answers(source, tmp_path):
    changes = {
        "methods": ["CGC-LoRA"],
        "clusters": {"medical": VALUES["clusters"]["medical"]},
        "training": {**VALUES["training"], "best_by": "score", "score_records": 1},
    }
    grid = made(source, tmp_path, **changes)
    grid.run()
    facts = manifest_of(tmp_path, "medical/cgc-lora")
    values = {
        float(rate): (-facts["dev_scores"][rate], loss)
        for rate, loss in facts["dev_losses"].items()
    }
    assert facts["learning_rate"] == min(values, key=values.__getitem__)
    (adapter,) = facts["adapters"]
    training = adapter["manifest"]["training"]
    assert training["scoring"]["records"] == {"KUAKE-QIC": 1, "IMCS-V2-NER": 1}
    assert training["settings"]["best_by"] == "score"
    assert grid.recipe.hash != recipe(**{**changes, "training": VALUES["training"]}).hash


def test_the_shipped_recipes_are_still_those_of_their_results():
    for name in ("main", "growth"):
        stored = json.loads((ASSETS / "results" / name / "recipe.json").read_text("utf-8"))
        assert read_recipe(name).hash == stored["hash"]


def test_single_has_an_adapter_a_task_and_the_backbone_none(whole):
    single = manifest_of(whole, "medical/lora-single")
    assert [adapter["tasks"] for adapter in single["adapters"]] == [["KUAKE-QIC"], ["IMCS-V2-NER"]]
    assert single["active_rank"] == 2
    bare = manifest_of(whole, "medical/backbone")
    assert bare["adapters"] == []
    assert bare["seed"] is None
    assert bare["learning_rate"] is None


def test_the_task_name_stands_in_the_prompts_of_one_method_only(whole):
    prompts = {
        cell: manifest_of(whole, f"medical/{cell}")["tasks"]["KUAKE-QIC"]["prompts"]
        for cell in ("lora-full", "lora-full-tp", "cgc-lora")
    }
    assert prompts["lora-full"] == prompts["cgc-lora"] != prompts["lora-full-tp"]


def test_lorahub_counts_the_training_of_its_modules(whole):
    single, hub = (manifest_of(whole, f"medical/{name}") for name in ("lora-single", "lorahub"))
    (adapter,) = hub["adapters"]
    found = adapter["manifest"]["training"]["search"]
    assert set(found) == {"KUAKE-QIC", "IMCS-V2-NER"}
    assert set(found["KUAKE-QIC"]["weights"]) == {"KUAKE-QIC", "IMCS-V2-NER"}
    searched = sum(one["seconds"] for one in found.values())
    assert searched > 0
    assert hub["training_seconds"] == pytest.approx(single["training_seconds"] + searched, abs=0.1)


def test_ranks_are_those_of_the_sizes(whole):
    facts = manifest_of(whole, "medical/cgc-lora")
    assert (facts["total_rank"], facts["active_rank"]) == (8, 6)
    assert manifest_of(whole, "medical/lora-total-rank")["total_rank"] == 8
    assert manifest_of(whole, "medical/lora-active-rank")["total_rank"] == 6
    for name in ("w-o-common", "w-o-specific", "w-o-gate"):
        assert manifest_of(whole, f"medical/cgc-lora-{name}")["total_rank"] == 8


def test_methods_of_one_size_differ_in_what_they_are_named_for():
    sizes = {"common": 8, "expert_rank": 4, "alpha": 72}
    tasks = tuple(name for name, task in TASKS.items() if task.cluster == "medical")
    full = recipe(clusters={"medical": list(tasks)}, sizes=sizes)
    whole = full.config("CGC-LoRA", tasks)
    assert (whole.total_rank, whole.active_rank) == (96, 36)
    for method in ("MOE-LoRA", "LoRA (total rank)", *(m for m in METHODS if "w/o" in m)):
        assert full.config(method, tasks).total_rank == 96
    for method in (m for m in METHODS if "w/o" in m):
        config = full.config(method, tasks)
        assert config.scale / config.experts_per_task == pytest.approx(2.0)
    assert full.config("LoRA (active rank)", tasks).total_rank == 36
    assert full.config("LoRA (active rank)", tasks).scale == 2.0


def test_tasks_that_are_not_built_in_are_compared_in_the_cluster_own(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev", "test"):
        lines = [
            {"task": task, "input": f"{split}：{place}", "target": target}
            for place in range(6)
            for task, target in (("换算", f"{place}米"), ("评价", "好" if place % 2 else "坏"))
        ]
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (data / f"{split}.jsonl").write_text(text, encoding="utf-8")
    own = recipe(clusters={"own": ["换算", "评价"]}, methods=["LoRA (Single)", "CGC-LoRA"])
    out = tmp_path / "out"
    assert Grid(own, make_backbone(), data, out).run().left == ()
    (board,) = boards(out / "runs").boards
    assert [(task.name, task.metric) for task in board.tasks] == [
        ("换算", "numeric-match"),
        ("评价", "accuracy"),
    ]
    single = manifest_of(out, "own/lora-single")
    folders = [*(out / "adapters/own/lora-single/seed-0").glob("rate-*/换算/adapter")]
    assert len(folders) == 2
    (described,) = single["adapters"][0]["manifest"][DESCRIPTIONS].values()
    assert (described["name"], described["kind"]) == ("换算", "number")


def test_two_tasks_cannot_share_a_folder():
    with pytest.raises(ConfigError, match="'换 算' and '换-算'"):
        recipe(clusters={"own": ["换 算", "换-算"]})


class Clock:
    """A clock by which the time is up after it was looked at so often."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def monotonic(self) -> float:
        self.left -= 1
        return 0.0 if self.left > 0 else 1e9


def test_a_comparison_in_bits_gives_what_one_in_a_piece_gives(source, whole, tmp_path, monkeypatch):
    methods = ("LoRA (Single)", "LoRAHub", "CGC-LoRA")
    only: Sequence[str] = methods
    bits = 0
    while True:
        with monkeypatch.context() as patch:
            patch.setattr(matrix_module.time, "monotonic", Clock(24).monotonic)
            outcome = made(source, tmp_path, methods=list(only)).run(1e6)
        bits += 1
        if not outcome.left:
            break
        assert bits < 200
    assert bits > 3
    theirs = said(whole)
    assert said(tmp_path) == {place: theirs[place] for place in said(tmp_path)}
    assert len(said(tmp_path)) == 2 * len(methods)


def test_each_task_is_added_to_an_adapter_of_the_others(source, tmp_path):
    """In bits, too: a call that goes on gives what one in a piece gives."""
    changes = {"methods": [ADDED], "clusters": {"medical": ["KUAKE-QIC", "IMCS-V2-NER"]}}
    assert made(source, tmp_path / "whole", **changes).run().left == ()
    facts = manifest_of(tmp_path / "whole", "medical/cgc-lora-added")
    assert [one["tasks"] for one in facts["adapters"]] == [["KUAKE-QIC"], ["IMCS-V2-NER"]]
    assert [one["manifest"]["tasks"] for one in facts["adapters"]] == [
        ["IMCS-V2-NER", "KUAKE-QIC"],
        ["KUAKE-QIC", "IMCS-V2-NER"],
    ]
    for one, new in zip(facts["adapters"], ("KUAKE-QIC", "IMCS-V2-NER"), strict=True):
        training, origin = one["manifest"]["training"], one["manifest"]["origin"]
        before = origin["training"]
        assert training["only"] == [new] == origin["added"]
        assert training["steps"] == before["steps"] * 2
        assert training["settings"]["batch_size"] * 2 == before["settings"]["batch_size"]

    left: tuple[str, ...] = ("all",)
    while left:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matrix_module.time, "monotonic", Clock(24).monotonic)
            left = made(source, tmp_path / "bits", **changes).run(1e6).left
    assert said(tmp_path / "bits") == said(tmp_path / "whole")


def test_a_task_cannot_be_added_to_nothing():
    with pytest.raises(ConfigError, match="general has one"):
        recipe(methods=[ADDED])


def test_a_finished_comparison_takes_no_more_time(source, whole):
    matrix = made(source, whole)
    lines: list[str] = []
    assert matrix.run(report=lines.append).left == ()
    assert lines == []


def test_seeds_and_methods_may_be_added(source, tmp_path):
    first = made(source, tmp_path, methods=["LoRA (Full)"], learning_rates=[1e-2])
    assert first.run().done == 2
    more = made(
        source, tmp_path, methods=["LoRA (Full)", "Backbone"], learning_rates=[1e-2], seeds=[0, 1]
    )
    outcome = more.run()
    assert (outcome.done, outcome.left) == (6, ())
    one, other = (
        read_run(tmp_path / f"runs/medical/lora-full/seed-{seed}").manifest for seed in (0, 1)
    )
    assert (one["seed"], other["seed"]) == (0, 1)
    hashes = [
        run["adapters"][0]["manifest"]["files"]["adapter.safetensors"] for run in (one, other)
    ]
    assert hashes[0] != hashes[1]


def test_learning_rates_may_be_tried_on_one_cluster_for_all(source, tmp_path):
    matrix = made(source, tmp_path, methods=["LoRA (Full)", "LoRAHub"], tune_on="general")
    assert matrix.run().left == ()
    chosen = manifest_of(tmp_path, "general/lora-full")
    assert manifest_of(tmp_path, "medical/lora-full")["dev_losses"] == chosen["dev_losses"]
    for method in ("lora-full", "lora-single"):
        assert len([*(tmp_path / "adapters/general" / method / "seed-0").iterdir()]) == 2
        assert len([*(tmp_path / "adapters/medical" / method / "seed-0").iterdir()]) == 1


def test_a_rate_with_which_training_diverges_is_passed_over(source, tmp_path):
    matrix = made(source, tmp_path, methods=["LoRA (Full)"], learning_rates=[1e-2, 1e30])
    assert matrix.run().left == ()
    facts = manifest_of(tmp_path, "medical/lora-full")
    assert facts["learning_rate"] == 1e-2
    assert facts["dev_losses"]["1e+30"] is None


def test_a_method_that_always_diverges_is_an_error(source, tmp_path):
    matrix = made(source, tmp_path, methods=["LoRA (Full)"], learning_rates=[1e30])
    for _ in range(2):
        with pytest.raises(TrainingError, match="diverged with every learning rate"):
            matrix.run()


def test_a_file_for_all_splits_is_refused(source, tmp_path):
    with pytest.raises(DataError, match=r"test.jsonl is one file, and not the train split"):
        made(source / "test.jsonl", tmp_path)


def test_a_prompt_of_the_test_split_in_the_training_data_is_refused(source, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev", "test"):
        text = (source / f"{split}.jsonl").read_text(encoding="utf-8")
        if split == "train":
            text += "\n" + text.splitlines()[0].replace("train", "test")
        (data / f"{split}.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="1 prompts of the test split are in the train split too"):
        made(data, tmp_path / "out")


def test_a_folder_of_another_comparison_is_refused(source, tmp_path):
    made(source, tmp_path, methods=["Backbone"])
    with pytest.raises(RunError, match=r"differs in hash: choose"):
        made(source, tmp_path, methods=["Backbone"], gate_rate=1.0)


def test_what_another_process_holds_is_passed_over(source, tmp_path):
    matrix = made(source, tmp_path, methods=["Backbone", "LoRA (Full)"], learning_rates=[1e-2])
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / "train-adapters-medical-lora-full-seed-0-rate-0-01"):
        outcome = matrix.run()
    assert outcome.left == ("medical/lora-full/seed-0",)
    assert outcome.elsewhere
    assert matrix.run().left == ()


def test_without_the_search_package_lorahub_is_left_for_later(source, tmp_path, monkeypatch):
    methods = ["LoRAHub", "Backbone"]
    with monkeypatch.context() as patch:
        patch.setattr(matrix_module, "SEARCHING", "no_such_package")
        outcome = made(source, tmp_path, methods=methods, learning_rates=[1e-2]).run()
    assert outcome.left == ("medical/lorahub/seed-0", "general/lorahub/seed-0")
    assert made(source, tmp_path, methods=methods, learning_rates=[1e-2]).run().left == ()


def test_without_the_scoring_packages_answers_wait_for_a_call_with_them(
    source, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(matrix_module, "_can_score", lambda: False)
        outcome = made(source, tmp_path, methods=["Backbone"]).run()
    assert len(outcome.unscored) == 2
    assert read_run(outcome.unscored[0]).metrics is None
    assert made(source, tmp_path, methods=["Backbone"]).run().unscored == ()
    assert read_run(outcome.unscored[0]).metrics is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": {"medical": ["NER"]}}, r"clusters.medical has no task 'NER'"),
        ({"clusters": {}}, "at least one cluster"),
        ({"clusters": {"medical": "KUAKE-QIC"}}, "table of lists"),
        ({"methods": ["QLoRA"]}, r"methods \['QLoRA'\] are not known"),
        ({"tune_on": "legal"}, r"tune_on is 'legal', not one of \['medical', 'general'\]"),
        ({"seeds": []}, "seeds must have values, each once"),
        ({"seeds": [1, 1]}, r"seeds must have values, each once, got \[1, 1\]"),
        ({"seeds": [True]}, "seeds must be a whole number >= 0, got True"),
        ({"methods": []}, "methods must have values"),
        ({"gate_rate": "3"}, "gate_rate must be a number >= 0, got '3'"),
        ({"learning_rates": ["1e-3"]}, "learning_rates must be a number >= 0, got '1e-3'"),
        ({"tune_on": ["medical"]}, r"tune_on is \['medical'\]"),
        ({"sizes": {"moe_rank": 10, "moe_experts": 8}}, "rank 10 does not divide"),
        ({"sizes": {"lora_rank": True}}, "sizes.lora_rank must be a whole number >= 1, got True"),
        ({"learning_rates": [-1.0]}, "learning_rates must be a number >= 0, got -1.0"),
        ({"learning_rates": 1e-3}, "learning_rates must be a list"),
        ({"records": {"train": -1}}, "records.train must be a whole number >= 0, got -1"),
        ({"records": {"tests": 1}}, r"keys \['tests'\] of records"),
        ({"training": {"seed": 1}}, r"keys \['seed'\] of training"),
        ({"sizes": {"common": 0}}, "sizes.common must be a whole number >= 1, got 0"),
        ({"search": {"l1": -1}}, "search.l1 must be a number >= 0, got -1"),
        ({"name": ""}, "name must be non-empty"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_all_methods_get_the_prompts_of_the_recipe_and_a_recipe_without_any_is_as_before(
    source: Path, tmp_path: Path
) -> None:
    tokenizer = chat_tokenizer(CHATML)
    model = make_model(vocab_size=len(tokenizer))
    backbone = Backbone(model, tokenizer, "tiny-chat", fingerprint(model))
    fixed = {
        "methods": ["LoRA (Full+TP)", "Backbone"],
        "learning_rates": [1e-3],
        "clusters": {"general": ["NER"]},
    }
    chosen = recipe(**fixed, prompts={"system": "简短", "template_options": {"a": True}})
    grid = Grid(chosen, backbone, source, tmp_path)
    form = PromptFormat(template=CHATML, template_options=(("a", True),), system="简短")
    assert grid.run().left == ()
    bare = manifest_of(tmp_path, "general/backbone")
    assert bare["decoding"]["prompt_format"] == form.to_dict()
    (adapter,) = manifest_of(tmp_path, "general/lora-full-tp")["adapters"]
    assert AdapterConfig.from_dict(adapter["manifest"]["training"]["config"]).prompt_format == form
    default = recipe(**fixed)
    Grid(default, backbone, source, tmp_path / "default")
    tokenizer.chat_template = None
    with pytest.raises(RunError, match="prompt_format"):
        Grid(default, backbone, source, tmp_path / "default")
    assert "prompts" not in recipe().to_dict()
    assert recipe().hash == recipe(prompts={}).hash != chosen.hash
    with pytest.raises(ConfigError, match="prompts"):
        recipe(prompts={"colour": "blue"})
