"""Tasks come and go; what the others compute stays the same, bit for bit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.chat import encode_prompts
from cgclora.data.records import DataError, Record
from cgclora.inference.batch import Batch
from cgclora.inference.request import Request
from cgclora.inference.router import JoinedRouter, TaskRouter
from cgclora.models.backbone import Backbone, load_backbone
from cgclora.models.gates import read_gates
from cgclora.storage import adapter_dir
from cgclora.storage.adapter_dir import AdapterError
from cgclora.storage.atomic_io import read_sealed, sha256_file
from cgclora.storage.layer_shapes import WEIGHTS_FILE
from cgclora.storage.run_dir import TrainingError, TrainingStopped
from cgclora.training.add_task import add_experts, add_tasks, drop_tasks, take_experts
from cgclora.training.settings import TrainingSettings
from cgclora.training.task_list import grown, shrunk
from tests.helpers.reference import METHODS, TASKS, scatter
from tests.helpers.tiny import ARCHITECTURES, make_backbone, save_backbone

GROWABLE = {
    name: config for name, config in METHODS.items() if config.specific or config.gate == "task"
}
PROMPT = "今天天气很好，我们去公园散步。"
RECORDS = [
    Record(f"{i}", "new", f"The cat sat on mat {i}?", ("yes", "no")[i % 2]) for i in range(12)
]
SETTINGS = TrainingSettings(epochs=2, batch_size=4, learning_rate=0.05, evaluations=2)


def saved(folder: Path, config: AdapterConfig, architecture: str = "qwen2") -> Path:
    adapter = scatter(Adapter.attach(make_backbone(architecture), config))
    adapter.save(
        folder,
        facts={
            "licence": "research only",
            "method": "cgc-lora",
            "classification": {"data": "x", "tasks": {task: {"records": 2} for task in TASKS}},
        },
    )
    return folder


def add(folder: Path, run: Path, backbone: Backbone | None = None, **changes: object) -> Path:
    backbone = backbone or make_backbone()
    arguments = {"settings": SETTINGS, "train_records": RECORDS, "dev_records": RECORDS[:4]}
    add_tasks(
        folder,
        ["new"],
        backbone,
        backbone.tokenizer,
        run_folder=run,
        progress=lambda facts: None,
        **{**arguments, **changes},  # type: ignore[arg-type]
    )
    return run / "adapter"


def answers(folder: Path, dtype: torch.dtype, architecture: str = "qwen2") -> list[Tensor]:
    """Logits after a prompt for each of the first tasks, by themselves and together."""
    backbone = make_backbone(architecture)
    backbone.model.to(dtype)
    adapter = Adapter.load(folder, backbone).for_inference()
    batches = [*([task] for task in TASKS if task in adapter.config.tasks), list(TASKS[:2])]
    found = []
    for tasks in batches:
        prompts = encode_prompts([PROMPT] * len(tasks), backbone.tokenizer, "\n")
        batch = Batch(backbone, adapter, [Request(task, PROMPT) for task in tasks], prompts)
        found += [batch.prefill(), batch.step([5] * len(tasks))]
    return found


# Adding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", GROWABLE.values(), ids=GROWABLE)
def test_an_added_task_learns_and_all_others_stay_bit_for_bit(config, tmp_path):
    parent = saved(tmp_path / "parent", config)
    child = add(parent, tmp_path / "run")
    before, after = adapter_dir.read_tensors(parent), adapter_dir.read_tensors(child)
    new = adapter_dir.read_manifest(child)[1]
    assert new.tasks == (*TASKS, "new")
    assert new.scale == config.scale
    old = take_experts(after, new, TASKS)
    assert old.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(old[name], tensor), name
    fresh = add_experts(before, config, 1, SETTINGS.seed)
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, fresh[name])]
    assert changed  # it did train
    gates = [
        read_gates(folder)[:, : len(TASKS), : config.num_experts] for folder in (parent, child)
    ]
    assert torch.equal(*gates)
    for dtype in (torch.float32, torch.bfloat16):
        for one, other in zip(answers(parent, dtype), answers(child, dtype), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_other_tasks_answer_the_same_on_every_architecture(architecture, tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"], architecture)
    child = add(parent, tmp_path / "run", make_backbone(architecture))
    for dtype in (torch.float32, torch.bfloat16):
        pairs = zip(
            answers(parent, dtype, architecture), answers(child, dtype, architecture), strict=True
        )
        assert all(torch.equal(one, other) for one, other in pairs)


def test_the_new_task_s_loss_falls(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    longer = replace(SETTINGS, epochs=10, evaluations=5)
    child = add(parent, tmp_path / "run", settings=longer)
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [facts["dev_loss"] for line in log if "dev_loss" in (facts := json.loads(line))]
    assert adapter_dir.read_manifest(child)[0]["training"]["best_dev_loss"] == min(losses)
    assert min(losses) < 0.7 * losses[0]


def test_the_new_task_starts_with_the_mean_mix_of_the_others():
    config = METHODS["CGC-LoRA"]
    adapter = scatter(Adapter.attach(make_backbone(), config))
    more = add_experts(adapter.state_dict(), config, 2, seed=0)
    child = Adapter.attach(make_backbone(), grown(config, ["new", "newer"]))
    child.load_state_dict(more)
    gates = child.gates()
    others = [
        torch.cat([gates[:, task, :3], gates[:, task, 3 + 2 * task : 5 + 2 * task]], dim=-1)
        for task in range(5)
    ]
    mean = torch.stack(others[:3]).log().mean(dim=0).softmax(dim=-1)  # of logits, as the gate adds
    assert (others[0] - others[1]).abs().max() > 0.05
    for new in others[3:]:
        torch.testing.assert_close(new, mean)


def test_a_new_task_of_an_untrained_cluster_can_learn_its_gate():
    config = METHODS["CGC-LoRA"]
    fresh = Adapter.attach(make_backbone(), config).state_dict()
    more = add_experts(fresh, config, 1, seed=0)
    assert not more["gate.projection"].any()
    assert more["gate.embedding"][3].any()
    zero = {**fresh, "gate.embedding": torch.zeros(3, 5)}
    assert all(tensor.isfinite().all() for tensor in add_experts(zero, config, 1, seed=0).values())


@given(
    st.sampled_from(["expert", "active", "total", "sqrt"]),
    st.floats(0.1, 100),
    st.integers(0, 9),
    st.integers(1, 6),
    st.integers(1, 40),
)
def test_the_scale_stays_whatever_the_rule(rule, alpha, common, rank, number):
    tasks = [f"task {index}" for index in range(number)]
    config = AdapterConfig(
        tuple(tasks), common=common, expert_rank=rank, alpha=alpha, scale_rule=rule
    )
    more = grown(config, ["new"])
    gates = torch.rand(9, generator=torch.Generator().manual_seed(number))
    for other in (more, shrunk(more, ["new"])):
        assert torch.equal(other.scale * gates, config.scale * gates)
    if rule != "total":
        assert more.alpha == alpha


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_grown_adapter_has_the_precision_of_the_old_one(dtype, tmp_path):
    adapter = scatter(Adapter.attach(make_backbone(), METHODS["CGC-LoRA"]))
    adapter.save(tmp_path / "parent", dtype=dtype)
    child = add(tmp_path / "parent", tmp_path / "run")
    before, after = adapter_dir.read_tensors(tmp_path / "parent"), adapter_dir.read_tensors(child)
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    old = take_experts(after, adapter_dir.read_manifest(child)[1], TASKS)
    assert all(torch.equal(old[name], tensor) for name, tensor in before.items())


def test_a_router_grows_and_shrinks_with_its_adapter(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    prompts = {task: [f"{task}: {word}?" for word in PROMPT] for task in TASKS}
    TaskRouter.fit(prompts).save(parent)
    child = add(parent, tmp_path / "run")
    router = TaskRouter.load(child)
    assert router.tasks == (*TASKS, "new")
    found = JoinedRouter({"child": router}).choose("The cat sat on mat 77?")
    assert found is not None
    assert found.task == "new"
    drop_tasks(child, ["new"], tmp_path / "again")
    ours, theirs = (folder / adapter_dir.ROUTER_FILE for folder in (tmp_path / "again", parent))
    assert ours.read_bytes() == theirs.read_bytes()
    drop_tasks(parent, ["mood"], tmp_path / "smaller")
    assert TaskRouter.load(tmp_path / "smaller").tasks == ("names", "summary")


def test_an_interrupted_run_goes_on_to_the_same_adapter(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    whole = adapter_dir.read_tensors(add(parent, tmp_path / "whole"))
    asked = iter([False, False, True])
    with pytest.raises(TrainingStopped):
        add(parent, tmp_path / "cut", stop=lambda: next(asked))
    resumed = adapter_dir.read_tensors(add(parent, tmp_path / "cut"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_run_of_another_parent_is_not_gone_on_with(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    other = scatter(Adapter.attach(make_backbone(), METHODS["CGC-LoRA"]), seed=2)
    other.save(tmp_path / "other")
    with pytest.raises(TrainingStopped):
        add(parent, tmp_path / "run", stop=lambda: True)
    with pytest.raises(TrainingError, match="differs in weights_at_start"):
        add(tmp_path / "other", tmp_path / "run")


def test_the_manifest_says_where_an_added_task_comes_from(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    child = add(parent, tmp_path / "run", facts={"note": "x", "licence": "CC0"})
    manifest, _ = adapter_dir.read_manifest(child)
    before, _ = adapter_dir.read_manifest(parent)
    assert manifest["origin"]["sha256"] == before["files"]["adapter.safetensors"]["sha256"]
    assert manifest["origin"]["added"] == ["new"]
    assert manifest["training"]["only"] == ["new"]
    assert (manifest["licence"], manifest["note"]) == ("research only; CC0", "x")
    assert set(manifest["classification"]["tasks"]) == set(TASKS)


def test_what_cannot_be_added_is_refused(tmp_path):
    config = METHODS["CGC-LoRA"]
    for names, match in ((["mood"], "knows \\['mood'\\] already"), ([], "at least one task")):
        with pytest.raises(ConfigError, match=match):
            grown(config, names)
    with pytest.raises(ConfigError, match="nothing of a new task's own"):
        grown(METHODS["LoRA"], ["new"])
    with pytest.raises(ConfigError, match="share one expert"):
        grown(AdapterConfig(TASKS, common=1, specific=0), ["new"])
    parent = saved(tmp_path / "parent", config)
    with pytest.raises(ConfigError, match="weight_decay"):
        add(parent, tmp_path / "a", settings=replace(SETTINGS, weight_decay=0.1))
    with pytest.raises(DataError, match="mood"):
        add(parent, tmp_path / "b", train_records=[*RECORDS, replace(RECORDS[0], task="mood")])
    with pytest.raises(AdapterError, match="load that one"):
        add(parent, tmp_path / "c", make_backbone(seed=1))


def test_a_gate_that_gives_a_new_task_nothing_to_learn_is_refused(tmp_path):
    config = METHODS["MOE-LoRA"]
    adapter = scatter(Adapter.attach(make_backbone(), config))
    for alike in (torch.zeros(()), torch.ones(())):
        adapter.gate.projection.data.copy_(alike)
        adapter.save(tmp_path / "parent")
        with pytest.raises(AdapterError, match="train the adapter on its own tasks first"):
            add(tmp_path / "parent", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_parent_is_never_replaced(tmp_path):
    parent = saved(tmp_path / "run" / "adapter", METHODS["CGC-LoRA"])
    before = sha256_file(parent / WEIGHTS_FILE)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for run in (tmp_path / "run", tmp_path / "link"):
        with pytest.raises(ConfigError, match="choose another --run"):
            add(parent, run)
    assert sha256_file(parent / WEIGHTS_FILE) == before


def test_training_that_reaches_other_tasks_is_not_saved(tmp_path, monkeypatch):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    monkeypatch.setattr("cgclora.training.add_task._masks", lambda *_: None)  # all values learn
    with pytest.raises(AdapterError, match="changed while new ones were trained"):
        add(parent, tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()


# Dropping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_dropping_leaves_the_others_bit_for_bit(config, tmp_path):
    parent = saved(tmp_path / "parent", config)
    manifest = drop_tasks(parent, ["mood"], tmp_path / "child")
    child = adapter_dir.read_manifest(tmp_path / "child")[1]
    assert child.tasks == ("names", "summary")
    assert child.scale == config.scale
    assert manifest["origin"]["dropped"] == ["mood"]
    assert set(manifest["classification"]["tasks"]) == {"names", "summary"}
    found = []
    for folder in (parent, tmp_path / "child"):
        backbone = make_backbone()
        adapter = Adapter.load(folder, backbone).for_inference()
        prompts = encode_prompts([PROMPT] * 2, backbone.tokenizer, "\n")
        rows = [Request(task, PROMPT) for task in child.tasks]
        found.append(Batch(backbone, adapter, rows, prompts).prefill())
    assert torch.equal(*found)


@pytest.mark.parametrize("config", GROWABLE.values(), ids=GROWABLE)
def test_dropping_what_was_added_gives_back_the_parent(config, tmp_path):
    parent = saved(tmp_path / "parent", config)
    child = add(parent, tmp_path / "run")
    drop_tasks(child, ["new"], tmp_path / "again")
    before, after = adapter_dir.read_tensors(parent), adapter_dir.read_tensors(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert adapter_dir.read_manifest(tmp_path / "again")[1] == config


def test_a_manifest_that_lacks_the_tasks_is_no_obstacle(tmp_path):
    parent = saved(tmp_path / "parent", METHODS["CGC-LoRA"])
    file = parent / adapter_dir.MANIFEST_FILE
    manifest = read_sealed(file)
    del manifest["tasks"]
    file.write_text(json.dumps(manifest), encoding="utf-8")
    assert drop_tasks(parent, ["mood"], tmp_path / "child")["origin"]["tasks"] == list(TASKS)


def test_what_cannot_be_dropped_is_refused():
    config = METHODS["CGC-LoRA"]
    with pytest.raises(ConfigError, match="unknown task 'x'"):
        shrunk(config, ["x"])
    with pytest.raises(ConfigError, match="at least one task"):
        shrunk(config, [])
    with pytest.raises(ConfigError, match="needs a task"):
        shrunk(config, TASKS)


# Command line -----------------------------------------------------------------------------


def test_the_commands_add_a_task_and_drop_it_again(tmp_path, capsys):
    backbone = save_backbone(tmp_path / "backbone")
    loaded = load_backbone(backbone, device="cpu", dtype="float32")
    adapter = scatter(Adapter.attach(loaded, METHODS["CGC-LoRA"]))
    adapter.save(tmp_path / "parent")
    data = tmp_path / "new.jsonl"
    lines = [{"task": "new", "input": r.prompt, "target": r.target} for r in RECORDS]
    lines.append({"task": "other", "input": "x", "target": "y"})
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = ["add-task", "--adapter", str(tmp_path / "parent"), "--data", str(data)]
    command += ["--dev", str(data), "--run", str(tmp_path / "run"), "--task", "new", "--json"]
    command += ["--backbone", str(backbone), "--device", "cpu", "--dtype", "float32"]
    assert main([*command, "--weight-decay", "0.1"]) == 2
    assert "weight_decay" in capsys.readouterr().err
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == [*TASKS, "new"]
    assert main(["inspect", str(tmp_path / "run" / "adapter")]) == 0
    parent = sha256_file(tmp_path / "parent" / WEIGHTS_FILE)[:12]
    assert f"new added to {parent}" in capsys.readouterr().out
    drop = ["drop-task", "--adapter", str(tmp_path / "run" / "adapter"), "--out"]
    assert main([*drop, str(tmp_path / "again"), "--task", "new"]) == 0
    assert "3 tasks left" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "again")]) == 0
    assert "new dropped from" in capsys.readouterr().out
    before = adapter_dir.read_tensors(tmp_path / "parent")
    after = adapter_dir.read_tensors(tmp_path / "again")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert main([*drop, str(tmp_path / "x"), "--task", "y"]) == 2
    assert "unknown task 'y'" in capsys.readouterr().err
