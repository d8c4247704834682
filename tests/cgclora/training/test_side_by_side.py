"""Adapters trained in the same passes: each as if it were alone."""

import dataclasses
import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import Record
from cgclora.models.backbone import Backbone, load_backbone
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingDiverged, TrainingError, TrainingStopped
from cgclora.training import side_by_side
from cgclora.training import train as train_module
from cgclora.training.loss import TargetLoss
from cgclora.training.runs import member as member_module
from cgclora.training.runs.member import Member
from cgclora.training.settings import TrainingRun, TrainingSettings
from cgclora.training.side_by_side import SideBySide
from cgclora.training.train import print_progress, train, train_side_by_side
from tests.cgclora.training.test_interrupted_training import PROCESSES
from tests.helpers.reference import Operations
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.training_runs import (
    CONFIG,
    DEV,
    SETTINGS,
    TASKS,
    TRAIN,
    WRONG,
    log_of,
    records,
    same,
    weights_of,
)

LONG = [dataclasses.replace(record, prompt=record.prompt * 3) for record in records(5, seed=3)]
"""Records of other lengths, fewer of them."""

MOOD = [record for record in TRAIN if record.task == "mood"]

Case = tuple[AdapterConfig, Sequence[Record], Sequence[Record], dict[str, Any]]
CASES: dict[str, Case] = {
    "cgc": (CONFIG, TRAIN, DEV, {}),
    "cgc of another seed": (CONFIG, TRAIN, DEV, {"seed": 5}),
    "lora": (AdapterConfig.lora(TASKS, 5), TRAIN, DEV, {"learning_rate": 0.003}),
    "moe": (AdapterConfig.moe_lora(TASKS, 4, 8), LONG, DEV, {"epochs": 3, "batch_size": 3}),
    "one task": (
        AdapterConfig.lora(["mood"], 5, dropout=0.1),
        MOOD,
        [record for record in DEV if record.task == "mood"],
        {"epochs": 5, "weight_decay": 0.1, "weighting": "record"},
    ),
    "patient": (CONFIG, TRAIN, WRONG, {"epochs": 5, "evaluations": 10, "patience": 2}),
    "accumulating": (
        dataclasses.replace(CONFIG, gate="uniform"),
        TRAIN,
        DEV,
        {"batch_size": 2, "accumulation": 2},
    ),
    "few rows": (
        AdapterConfig([*TASKS, *(f"task {n}" for n in range(40))], common=1, specific=1),
        [*TRAIN, *(Record(f"x{n}", f"task {n}", "abc", "d") for n in range(40))],
        [*DEV, *(Record(f"y{n}", f"task {n}", "abcd", "d") for n in range(40))],
        {"epochs": 0.5},
    ),
}

PEERS: dict[str, Case] = {
    "mtl": (AdapterConfig.mtl_lora(TASKS, 3, 4), TRAIN, DEV, {"gate_learning_rate": 0.01}),
    "mtl of another seed": (AdapterConfig.mtl_lora(TASKS, 3, 4), TRAIN, DEV, {"seed": 5}),
    "poly": (AdapterConfig.c_poly(TASKS), TRAIN, DEV, {}),
}


def make_run(backbone: Backbone, name: str, folder: Path, **changes: Any) -> TrainingRun:
    """What trains a case in a folder below another one."""
    config, train_records, dev_records, own = (CASES | PEERS)[name]
    adapter = Adapter.attach(backbone, config, name=name.replace(" ", "-"), seed=own.get("seed", 0))
    settings = TrainingSettings(**{**SETTINGS, **own, **changes})
    return TrainingRun(adapter, train_records, dev_records, settings, folder / name)


def together(
    folder: Path,
    names: Sequence[str] = tuple(CASES),
    backbone: Backbone | None = None,
    **options: Any,
) -> list[dict[str, Any] | TrainingDiverged]:
    """Train some cases side by side on a fresh backbone."""
    backbone = backbone or make_backbone()
    # In float64, since Adam takes a full step along a gradient that is nothing but rounding.
    backbone.model.double()
    runs = [make_run(backbone, name, folder) for name in names]
    return train_side_by_side(runs, backbone.tokenizer, progress=lambda facts: None, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for name in CASES:
        together(folder, [name])
    return folder


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor relative to its size, as vectors."""
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3))
        for name in ours
    )


def assert_alike(
    folder: Path, alone: Path, names: Sequence[str] = tuple(CASES), bound: float = 1e-5
) -> None:
    """The same weights, logs and facts, up to the rounding of sums in another order."""
    for name in names:
        assert distance(weights_of(folder / name), weights_of(alone / name)) < bound, name
        ours, theirs = log_of(folder / name), log_of(alone / name)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        for our_line, their_line in zip(ours, theirs, strict=True):
            assert our_line.keys() == their_line.keys()
            for key in our_line.keys() & {"loss", "dev_loss", "learning_rate", "grad_norm"}:
                assert our_line[key] == pytest.approx(their_line[key], rel=1e-4), (name, key)
        facts = [read_manifest(one / name / "adapter")[0]["training"] for one in (folder, alone)]
        for key in ("steps", "best_step", "config", "settings", "records"):
            assert facts[0][key] == facts[1][key], (name, key)


# Each as if it were alone -----------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 300, 10**9])
def test_members_of_all_kinds_learn_what_they_learn_alone(
    tmp_path: Path, alone: Path, tokens: int | None
) -> None:
    manifests = together(tmp_path, tokens=tokens)
    assert_alike(tmp_path, alone)
    assert [facts["training"]["side_by_side"] for facts in manifests] == [len(CASES)] * len(CASES)  # type: ignore[index]


def test_a_shared_a_and_sampled_skills_learn_what_they_learn_alone(tmp_path: Path) -> None:
    for name in PEERS:
        together(tmp_path / "alone", [name])
    together(tmp_path / "all", [*PEERS])
    assert_alike(tmp_path / "all", tmp_path / "alone", [*PEERS])
    for name in PEERS:
        losses = [
            line["dev_loss"] for line in log_of(tmp_path / "all" / name) if "dev_loss" in line
        ]
        assert losses[-1] < losses[0]
    for name, tensor in weights_of(tmp_path / "all" / "mtl").items():
        if name.endswith("expert_B"):  # no two are alike, which would be one
            first, second, third = tensor.split(4, dim=1)
            assert min(map(torch.dist, (first, second, third), (second, third, first))) > 0.01


def test_padding_to_the_longest_member_changes_nothing(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "SLACK", {"cpu": 100.0})
    widths = []
    original = SideBySide._pass

    def one_pass(self: SideBySide, shares: Any, learning: bool) -> None:
        widths.append({share.width for share in shares})
        original(self, shares, learning)

    monkeypatch.setattr(SideBySide, "_pass", one_pass)
    together(tmp_path, tokens=10**9)
    assert all(len(found) == 1 for found in widths)
    assert_alike(tmp_path, alone)


@pytest.mark.parametrize("architecture", ["llama", "glm"])  # a Gemma 3 is the embedded backbone
def test_fifty_steps_in_fp32_give_the_weights_of_a_run_alone(
    tmp_path: Path, architecture: str
) -> None:
    names = ["cgc", "lora", "moe", "one task"]

    def steps(folder: Path, some: Sequence[str]) -> None:
        backbone = make_backbone(architecture)
        runs = [make_run(backbone, name, folder, epochs=50, evaluations=2) for name in some]
        runs = [
            dataclasses.replace(
                run,
                settings=dataclasses.replace(
                    run.settings,
                    epochs=50 * run.settings.batch_size / len(run.train_records),
                    learning_rate=1e-3,
                ),
            )
            for run in runs
        ]
        train_side_by_side(runs, backbone.tokenizer, progress=lambda facts: None)

    steps(tmp_path / "together", names)
    for name in names:
        steps(tmp_path / "alone", [name])
        facts = read_manifest(tmp_path / "alone" / name / "adapter")[0]["training"]
        assert 48 <= facts["steps"] <= 56
    assert_alike(tmp_path / "together", tmp_path / "alone", names)


@pytest.mark.backbone
def test_steps_on_the_embedded_backbone_give_the_weights_of_a_run_alone(
    tmp_path: Path,
) -> None:
    backbone = load_backbone(dtype="float32")
    decoder = backbone.model.get_decoder()
    decoder.layers = decoder.layers[4:6]  # one attends to a window, the other to all
    backbone.model.double()  # as in `together`
    short = [dataclasses.replace(record, prompt=record.prompt[:12]) for record in TRAIN]
    cases = {
        "cgc": (AdapterConfig(TASKS, common=2, specific=1), short, 16),
        "lora": (AdapterConfig.lora(TASKS, 3), short[::-1], 6),  # steps
    }

    def steps(folder: Path, names: Sequence[str]) -> None:
        runs = [
            TrainingRun(
                Adapter.attach(backbone, cases[name][0], name=name),
                cases[name][1],
                short[:3],
                TrainingSettings(epochs=cases[name][2] / 24, batch_size=1, evaluations=1),
                folder / name,
            )
            for name in names
        ]
        train_side_by_side(runs, backbone.tokenizer, progress=lambda facts: None)
        for run in runs:
            run.adapter.detach()

    steps(tmp_path / "together", ["cgc", "lora"])
    for name in cases:
        steps(tmp_path / "alone", [name])
    assert_alike(tmp_path / "together", tmp_path / "alone", [*cases])


def test_a_step_makes_one_product_with_each_frozen_weight_for_all_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = TargetLoss.forward

    def counted(self: TargetLoss, *inputs: Any) -> Any:
        calls.append(len(inputs[0]))
        return forward(self, *inputs)

    monkeypatch.setattr(TargetLoss, "forward", counted)
    monkeypatch.setattr(side_by_side, "SLACK", {"cpu": 100.0})
    together(tmp_path, ["cgc", "cgc of another seed", "lora"], tokens=10**9)
    assert calls.count(12) == 9 + 3 * 2  # three members of four rows, of nine steps and dev losses
    assert sum(calls) == 9 * 12 + 3 * 3 * len(DEV)


# One that ends does not touch the others --------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_member_that_diverges_leaves_the_others_as_they_are(tmp_path: Path, alone: Path) -> None:
    backbone = make_backbone()
    names = ["cgc", "lora", "moe"]
    runs = [make_run(backbone, name, tmp_path) for name in names]
    bad = make_run(backbone, "cgc of another seed", tmp_path, learning_rate=1e30, warmup=0.0)
    outcomes = train_side_by_side(
        [runs[0], bad, *runs[1:]], backbone.tokenizer, progress=lambda facts: None
    )
    assert isinstance(outcomes[1], TrainingDiverged)
    assert "lower the learning rate" in str(outcomes[1])
    assert not (bad.folder / "adapter").exists()
    assert_alike(tmp_path, alone, names, bound=1e-4)  # here in fp32, which overflows


def test_a_member_that_may_not_be_saved_is_not_saved(tmp_path: Path) -> None:
    backbone = make_backbone()

    def refuse() -> None:
        raise TrainingError("not this one")

    run = dataclasses.replace(make_run(backbone, "cgc", tmp_path), check=refuse)
    with pytest.raises(TrainingError, match="not this one"):
        train_side_by_side([run], backbone.tokenizer, progress=lambda facts: None)
    assert not (run.folder / "adapter").exists()


def test_a_pass_without_room_in_memory_is_taken_in_halves(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TargetLoss.forward

    def limited(self: TargetLoss, *inputs: Any) -> Any:
        losses = forward(self, *inputs)
        if len(inputs[0]) > 4:
            # After some gradients have arrived, as in the middle of a backward pass.
            losses.register_hook(out_of_memory) if losses.requires_grad else out_of_memory()
        return losses

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(TargetLoss, "forward", limited)
    together(tmp_path, ["cgc", "lora", "moe"], tokens=10**9)
    assert_alike(tmp_path, alone, ["cgc", "lora", "moe"])
    backbone = make_backbone()
    run = make_run(backbone, "cgc", tmp_path / "large", batch_size=8)
    with pytest.raises(TrainingError, match="lower batch_size"):
        train_side_by_side([run], backbone.tokenizer, progress=lambda facts: None)


# Going on ---------------------------------------------------------------------------------


NAMES = ["cgc", "lora", "moe", "patient"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several members together, without an interruption."""
    folder = tmp_path_factory.mktemp("together")
    together(folder, NAMES)
    return folder


def die_at(folder: Path, where: str, call: int) -> None:
    """Train side by side, and be killed at a call; runs in a process of its own."""
    torch.set_num_threads(1)
    owner, where = {
        "take_step": (Member, "take_step"),
        "write_checkpoint": (Member, "write_checkpoint"),
        "write a folder": (member_module, "write_checkpoint"),
        "save": (Adapter, "save"),
    }[where]
    original, calls = getattr(owner, where), iter(range(1, 10**6))

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, where, dying)
    together(folder, NAMES)


def killed(folder: Path, where: str, call: int) -> bool:
    process = PROCESSES.Process(target=die_at, args=(folder, where, call))
    process.start()
    process.join(timeout=120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


@pytest.mark.parametrize(
    ("where", "call"),
    [("take_step", 3), ("take_step", 41), ("write_checkpoint", 6)]
    + [("write a folder", call) for call in (2, 7)]
    + [("save", 2)],
)
def test_killed_at_any_moment_the_same_members_end_with_the_same_bits(
    tmp_path: Path, whole: Path, where: str, call: int
) -> None:
    assert killed(tmp_path, where, call)
    together(tmp_path, NAMES)
    for name in NAMES:
        assert same(weights_of(tmp_path / name), weights_of(whole / name)), name
        assert log_of(tmp_path / name) == log_of(whole / name), name


def test_killed_at_random_again_and_again_nothing_is_lost(tmp_path: Path, whole: Path) -> None:
    generator = random.Random()
    for _ in range(2):
        killed(tmp_path, "take_step", generator.randint(1, 30))
    together(tmp_path, NAMES)
    for name in NAMES:
        assert same(weights_of(tmp_path / name), weights_of(whole / name)), name


def stopped(folder: Path, names: Sequence[str], after: int) -> None:
    asked = iter(range(1, 1000))
    with pytest.raises(TrainingStopped, match="the same call goes on"):
        together(folder, names, stop=lambda: next(asked) >= after)


def test_members_go_on_in_another_company_and_alone(tmp_path: Path, alone: Path) -> None:
    stopped(tmp_path, ["cgc", "lora", "moe", "few rows"], after=2)
    stopped(tmp_path, ["cgc", "one task", "moe"], after=2)
    together(tmp_path, ["cgc"])
    together(tmp_path, ["few rows", "moe", "one task", "lora"])
    names = ["cgc", "lora", "moe", "few rows", "one task"]
    assert_alike(tmp_path, alone, names)
    resumed = {
        name: read_manifest(tmp_path / name / "adapter")[0]["training"]["resumed_at"]
        for name in names
    }
    assert resumed == {"cgc": 4, "lora": 2, "moe": 4, "few rows": 2, "one task": 2}


def test_a_run_alone_goes_on_with_others(tmp_path: Path, alone: Path) -> None:
    stopped(tmp_path, ["cgc"], after=4)
    together(tmp_path, ["lora", "cgc"])
    assert_alike(tmp_path, alone, ["lora", "cgc"])


def test_what_is_done_stays_when_the_members_are_called_again(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "again")
    before = {path: path.read_bytes() for path in (tmp_path / "again").glob("*/log.jsonl")}
    together(tmp_path / "again", NAMES)
    for name in NAMES:
        assert same(weights_of(tmp_path / "again" / name), weights_of(whole / name))
    assert {path: path.read_bytes() for path in before} == before


def test_the_time_left_of_runs_together_is_told_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ten steps of 100 tokens, and a hundred of 10; a token takes a second.
    long, short = (
        SimpleNamespace(
            run=SimpleNamespace(folder=Path(name)),
            step=0,
            steps=steps,
            ended=False,
            error=None,
            records_a_step=2,
            train=[None] * 4,
            sampler=SimpleNamespace(lengths=[tokens / 2] * 4),
        )
        for name, steps, tokens in (("long", 10, 100), ("short", 100, 10))
    )
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(train_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    seen: list[dict[str, Any]] = []
    progress = train_module._Progress([long, short], seen.append)
    progress(long, {})
    assert seen[-1]["seconds_left"] is None
    for step in range(1, 11):
        long.step = short.step = step
        clock.now = 110.0 * step
        progress(short, {})
        assert seen[-1]["seconds_left"] == pytest.approx(2000 - clock.now)
    long.ended = True
    short.step, clock.now = 55, 1000 + 550
    progress(short, {})
    assert seen[-1]["seconds_left"] == pytest.approx(450)


# What cannot be trained together ----------------------------------------------------------


def test_runs_that_share_something_are_refused(tmp_path: Path) -> None:
    backbone = make_backbone()
    run = make_run(backbone, "cgc", tmp_path)
    other = make_run(backbone, "lora", tmp_path)
    elsewhere = make_run(make_backbone(), "moe", tmp_path)
    for runs, message in (
        ([run, dataclasses.replace(run, folder=tmp_path / "b")], "an adapter"),
        ([run, dataclasses.replace(other, folder=run.folder)], "a folder"),
        ([run, elsewhere], "2 backbones"),
        ([], "0 backbones"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_side_by_side(runs, backbone.tokenizer)


def test_progress_names_the_run_and_the_time_that_is_left_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = make_backbone()
    seen: list[dict[str, Any]] = []
    runs = [make_run(backbone, name, tmp_path) for name in ("cgc", "lora")]

    def listen(facts: dict[str, Any]) -> None:
        seen.append(facts)
        print_progress(facts)

    train_side_by_side(runs, backbone.tokenizer, progress=listen)
    assert {facts["run"] for facts in seen} == {"cgc", "lora"}
    assert seen[-1]["seconds_left"] == 0
    assert "lora: step 9/9 · dev loss" in capsys.readouterr().err
    backbone = make_backbone()
    config, train_records, dev_records, _ = CASES["cgc"]
    train(
        Adapter.attach(backbone, config),
        backbone.tokenizer,
        train_records,
        dev_records,
        TrainingSettings(**SETTINGS),
        tmp_path / "one",
    )
    assert "\nstep 9/9 · dev loss" in capsys.readouterr().err


# Several at once --------------------------------------------------------------------------


def train_runs(folder: Path, runs: str, *words: str) -> int:
    (folder / "sweep.toml").write_text(runs, encoding="utf-8")
    save_backbone(folder / "backbone")
    for name, split in (("train", TRAIN), ("dev", DEV)):
        lines = [{"task": r.task, "input": r.prompt, "target": r.target} for r in split]
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    given = f"""
        train --backbone {folder / "backbone"} --dtype float32 --data {folder / "train.jsonl"}
        --dev {folder / "dev.jsonl"} --run {folder / "sweep"} --runs {folder / "sweep.toml"}
        --epochs 1 --evaluations 1
    """.split()
    return main([*given, *words])


def test_the_runs_of_a_file_train_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = """
        [lora]
        method = "lora"
        rank = 3
        task = ["mood", "weather"]
        [cgc]
        learning-rate = 2e-3
        records-of = ["mood=2"]
        half = true
    """
    # The lora's tasks alone are in its own files.
    for name, split in (("train", TRAIN), ("dev", DEV)):
        lines = [
            {"task": r.task, "input": r.prompt, "target": r.target}
            for r in split
            if r.task != "last letter"
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        (tmp_path / f"two-{name}.jsonl").write_text(text, encoding="utf-8")
    runs = runs.replace(
        'method = "lora"',
        f'method = "lora"\ndata = "{tmp_path}/two-train.jsonl"\ndev = "{tmp_path}/two-dev.jsonl"',
    )
    assert train_runs(tmp_path, runs, "--batch-size", "4") == 0
    said = capsys.readouterr().out
    manifests = {
        name: read_manifest(tmp_path / "sweep" / name / "adapter")[0] for name in ("lora", "cgc")
    }
    assert all(f"sweep/{name}/adapter" in said for name in manifests)
    assert manifests["lora"]["tasks"] == ["mood", "weather"]
    assert manifests["lora"]["total_rank"] == 3
    assert manifests["lora"]["method"] == "lora"
    settings = manifests["cgc"]["training"]["settings"]
    assert (settings["learning_rate"], settings["batch_size"]) == (2e-3, 4)
    assert settings["records_of"] == {"mood": 2}
    assert {facts["training"]["side_by_side"] for facts in manifests.values()} == {2}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_diverges_is_named_when_the_others_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = '[bad]\nlearning-rate = 1e30\nwarmup = 0.0\n[good]\nmethod = "lora"'
    assert train_runs(tmp_path, runs) == 6
    assert "sweep/bad: the " in capsys.readouterr().err
    assert (tmp_path / "sweep" / "good" / "adapter").exists()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("", "must hold a table for each run"),
        ("a = 1", "must hold a table for each run"),
        ("[a", "is not TOML"),
        ("[a]\nrank = 'many'", "argument --rank"),
        ("[a]\nmethod = 'magic'", "argument --method"),
        ("[a]\nranks = 3", "--ranks 3 is no option"),
        ("[a]\nbackbone = 'other'", "['backbone'] are the same for all runs"),
        ("['../a']\nrank = 3", "take letters"),
        ("[a]\nepochs = -1", "epochs must be"),
    ],
)
def test_a_file_of_runs_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: str, message: str
) -> None:
    assert train_runs(tmp_path, runs) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


# No waiting -------------------------------------------------------------------------------


def a_round(backbone: Backbone, folder: Path, names: Sequence[str], count: int = 1) -> Operations:
    """The operations of a round that neither logs nor evaluates, of members like these."""
    config, train_records, dev_records, _ = CASES["cgc"]
    seen = Operations()
    take_round = SideBySide.take_round

    def counted(self: SideBySide, active: Sequence[Member]) -> None:
        if self.round != 1:
            take_round(self, active)
            return
        with seen:
            take_round(self, active)

    runs = [
        TrainingRun(
            Adapter.attach(backbone, config, name=f"{name}{place}", seed=place),
            train_records,
            dev_records,
            TrainingSettings(**{**SETTINGS, "epochs": 10, "evaluations": 1}),
            folder / f"{name}{place}",
        )
        for name in names
        for place in range(count)
    ]
    with pytest.MonkeyPatch.context() as patch:
        # What a processor looks at in each step, and a GPU when it logs.
        patch.setattr(Member, "check_loss", lambda self: None)
        patch.setattr(SideBySide, "take_round", counted)
        train_side_by_side(runs, backbone.tokenizer, tokens=10**9, progress=lambda facts: None)
    return seen


@pytest.mark.parametrize("architecture", ["gemma3", "qwen3"])
def test_a_step_waits_for_no_value(tmp_path: Path, architecture: str) -> None:
    seen = a_round(make_backbone(architecture), tmp_path, ["a"], 3)
    for name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"):
        assert not seen.count[name], name


def test_more_members_of_one_shape_need_no_more_products(tmp_path: Path) -> None:
    products = [
        a_round(make_backbone("gemma3"), tmp_path / str(count), ["a"], count).products()
        for count in (2, 6)
    ]
    assert products[0] == products[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_members_learn_what_they_learn_alone(tmp_path: Path) -> None:
    names = ["cgc", "lora", "moe"]
    for folder, some in [("together", names), *(("alone", [name]) for name in names)]:
        backbone = make_backbone("gemma3")
        backbone.model.cuda()
        together(tmp_path / folder, some, backbone)
    assert_alike(tmp_path / "together", tmp_path / "alone", names)
