"""Two processes of one run, with DDP and with FSDP: the steps of one process, and one that writes.

All of it on the CPU, with gloo, and with the configs that are shipped.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.cli import accelerate
from cgclora.storage.adapter_dir import read_manifest
from cgclora.storage.run_dir import TrainingError, checkpoints, hold
from cgclora.training import distributed
from cgclora.training.loss import TargetLoss
from tests.helpers.tiny import make_backbone, save_backbone
from tests.helpers.training_runs import (
    DEV,
    PLAIN,
    TASKS,
    TRAIN,
    assert_same_run,
    close,
    losses_of,
    run,
    weights_of,
)

WORKER = Path(__file__).with_name("distributed_worker.py")
ROOT = WORKER.parents[3]
Two = tuple[Path, list[dict[str, Any]]]
CONFIG_FOLDER = ROOT / "cgclora" / "training" / "accelerate"


def launch(config: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Two processes of a module or script, as a user would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = CONFIG_FOLDER / f"{config}.yaml"
    options = f"--config_file {path} --main_process_port {port}".split()
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, *words],
        cwd=ROOT,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def training(folder: Path, run_folder: Path) -> list[str]:
    """The words for the run of `plain` by two processes of half the batch size."""
    words = f"""
        train --backbone {folder / "backbone"} --dtype float32
        --data {folder / "train.jsonl"} --dev {folder / "dev.jsonl"} --run {run_folder}
        --common 2 --specific 1 --epochs 2 --batch-size 4 --learning-rate 0.01 --evaluations 3
        --warmup 0.1
    """.split()
    return [*words, *(word for task in TASKS for word in ("--task", task))]


def assert_same_steps(ours: Path, theirs: Path) -> None:
    """Losses within 1e-4 of each other, weights within 1 % or 1e-4."""
    assert len(losses_of(ours)) == len(losses_of(theirs)) == 6
    close(ours, theirs)
    weights = weights_of(ours)
    for name, tensor in weights_of(theirs).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process: two epochs of three steps of eight records, without dropout."""
    folder = tmp_path_factory.mktemp("plain")
    run(folder, config=PLAIN, epochs=2, batch_size=8, evaluations=3)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone and data."""
    folder = tmp_path_factory.mktemp("data")
    save_backbone(folder / "backbone")
    for name, split in (("train", TRAIN), ("dev", DEV)):
        lines = [{"task": r.task, "input": r.prompt, "target": r.target} for r in split]
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """The runs of `distributed_worker.runs`, and what the two processes saw of them."""
    folder = tmp_path_factory.mktemp("two")
    done = launch("fsdp", str(WORKER), "runs", str(folder))
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [
        json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)
    ]


# Steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ddp", "ddp accumulated", "fsdp", "fsdp accumulated", "fsdp checkpointing"]
)
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(
    two: Two, plain: Path, name: str
) -> None:
    assert_same_steps(two[0] / name, plain)


@pytest.mark.parametrize("name", ["gemma3 growing", "llama bf16"])
def test_sharded_weights_compute_what_whole_ones_do(two: Two, name: str) -> None:
    assert_same_steps(two[0] / f"fsdp {name}", two[0] / f"ddp {name}")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_values_that_do_not_learn_stay_as_they_are(two: Two, kind: str) -> None:
    for seen in two[1]:
        assert seen[f"{kind} gemma3 growing"]["moved"] == [False, True, True]
        assert seen[kind]["moved"] == [True, True, True]
        assert all(facts["identities"] for facts in seen.values())


# Who holds and who writes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture"), [("fsdp", "qwen2"), ("fsdp llama bf16", "llama")]
)
def test_with_fsdp_each_process_holds_half_of_the_frozen_weights(
    two: Two, name: str, architecture: str
) -> None:
    total = sum(parameter.numel() for parameter in make_backbone(architecture).model.parameters())
    held = [count for seen in two[1] for count in seen[name]["held"]]
    assert len(held) == 2
    assert sum(held) == total
    assert max(held) <= 0.55 * total


def test_one_process_writes_the_weights(two: Two) -> None:
    writer, other = two[1]
    for name, facts in writer.items():
        expected = [6] if "resumed" in name else [2, 4, 6]
        assert facts["written"] == [f"checkpoint-{step}" for step in expected]
        assert other[name]["written"] == []


def test_the_manifest_of_a_sharded_run_knows_the_whole_backbone(two: Two) -> None:
    Adapter.load(two[0] / "fsdp" / "adapter", make_backbone())


# Interrupted runs -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_resume_within_an_epoch(two: Two, kind: str) -> None:
    assert read_manifest(two[0] / f"{kind} resumed" / "adapter")[0]["training"]["resumed_at"] == 4
    assert_same_run(two[0] / f"{kind} resumed", two[0] / kind)


def test_a_run_killed_with_ddp_goes_on_with_fsdp_to_the_same_weights(
    data: Path, tmp_path: Path, two: Two
) -> None:
    folder = tmp_path / "run"
    words = training(data, folder)
    died = launch("ddp", str(WORKER), "dies", "4", *words)
    assert died.returncode != 0
    assert "Signal 9" in died.stderr
    assert [path.name for path in checkpoints(folder / "checkpoints")] == ["checkpoint-2"]
    done = launch("fsdp", "-m", "cgclora", *words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_run(folder, two[0] / "fsdp")


def test_two_processes_end_where_another_trains(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with hold(folder):
        done = launch("ddp", "-m", "cgclora", *training(data, folder))
    assert done.returncode != 0
    assert "another process trains in this folder" in done.stderr
    assert not (folder / "adapter").exists()


# Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(accelerate.CONFIGS))
def test_accelerate_reads_every_shipped_config(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accelerate-config", name]) == 0
    path = Path(capsys.readouterr().out.strip())
    config = load_config_from_file(str(path))
    assert config.distributed_type.value == ("FSDP" if name == "fsdp" else "MULTI_GPU")
    assert path.parent == CONFIG_FOLDER


def test_every_config_in_the_folder_is_offered() -> None:
    assert {path.stem for path in CONFIG_FOLDER.iterdir()} == set(accelerate.CONFIGS)


@pytest.fixture
def in_fsdp(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of one of two processes, as accelerate makes it of an FSDP config."""
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("FSDP_VERSION", "2"),
        ("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
    ):
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing: false"),
        ("WORLD_SIZE", "1", "single process"),
    ],
)
def test_an_fsdp_config_that_cannot_be_followed_says_why(
    in_fsdp: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    in_fsdp.setenv(name, value)
    with pytest.raises(TrainingError, match=message):
        distributed.Processes(torch.device("cpu"))


def test_a_backbone_without_blocks_of_that_name_is_not_sharded(
    in_fsdp: pytest.MonkeyPatch,
) -> None:
    in_fsdp.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "OtherLayer")
    loss = TargetLoss(make_backbone().model)
    with pytest.raises(TrainingError, match=r"OtherLayer.*fsdp_transformer_layer"):
        distributed.shard(loss, torch.device("cpu"))


def test_a_quantised_backbone_is_not_sharded(in_fsdp: pytest.MonkeyPatch) -> None:
    loss = TargetLoss(make_backbone().model)
    packed = torch.zeros(3, dtype=torch.uint8)
    loss.model.register_parameter("packed", nn.Parameter(packed, requires_grad=False))
    with pytest.raises(TrainingError, match="quantised"):
        distributed.shard(loss, torch.device("cpu"))


@pytest.mark.parametrize(
    ("fsdp", "device", "dtype", "expected"),
    [
        ("false", "auto", "auto", ("cuda:1", "auto")),
        ("false", "cpu", "auto", ("cpu", "auto")),
        ("true", "auto", "auto", ("cpu", torch.bfloat16)),
        ("true", "auto", "float32", ("cpu", "float32")),
    ],
)
def test_each_process_loads_the_backbone_where_it_has_room(
    in_fsdp: pytest.MonkeyPatch, fsdp: str, device: str, dtype: str, expected: tuple[Any, Any]
) -> None:
    in_fsdp.setenv("ACCELERATE_USE_FSDP", fsdp)
    in_fsdp.setattr(distributed, "choose_device", lambda name: torch.device("cuda"))
    in_fsdp.setattr(distributed, "choose_dtype", lambda name, device: torch.bfloat16)
    assert distributed.loading_options(device, dtype) == expected
