"""`python -m cgclora train`: options, progress, the result, and the end of a run."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cgclora.__main__ import main
from cgclora.storage.adapter_dir import MANIFEST_FILE, read_manifest
from cgclora.storage.run_dir import checkpoints, step_of
from tests.helpers.commands import training


def test_training_saves_an_adapter_of_the_tasks_named(folder: Path) -> None:
    manifest, config = read_manifest(folder / "run" / "adapter")
    assert config.tasks == ("mood", "weather")
    assert (config.common, config.specific, config.expert_rank) == (2, 1, 2)
    assert manifest["training"]["settings"]["learning_rate"] == 0.02
    assert manifest["training"]["records"] == {"train": 24, "dev": 4}
    assert str(folder) not in (folder / "run" / "adapter" / MANIFEST_FILE).read_text("utf-8")


def test_training_reports_progress_on_standard_error_and_the_result_on_the_other(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--licence", "CC0-1.0", "--half", "--records-of", "mood=4", "--dropout", "0.1")
    command = [*training(folder, *more), "--run", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    output, progress = capsys.readouterr()
    manifest = json.loads(output)
    assert manifest == read_manifest(tmp_path / "run" / "adapter")[0]
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["training"]["records"]["train"] == 4 + 12
    assert manifest["training"]["config"]["dropout"] == 0.1
    assert "step " in progress
    assert "min left" in progress
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--method", "lora", "--rank", "6"), {"common": 1, "expert_rank": 6, "gate": "none"}),
        (
            ("--method", "moe-lora", "--rank", "8", "--experts", "4", "--gate-scope", "layer"),
            {"common": 4, "specific": 0, "expert_rank": 2, "gate_scope": "layer"},
        ),
        (
            ("--gate", "uniform", "--alpha", "3", "--target-module", "q_proj"),
            {"gate": "uniform", "alpha": 3.0, "target_modules": ("q_proj",)},
        ),
    ],
)
def test_methods_and_their_options_become_the_config(
    folder: Path, tmp_path: Path, options: tuple[str, ...], expected: dict[str, Any]
) -> None:
    short = ("--epochs", "0.5", "--evaluations", "1")
    assert main([*training(folder, *options, *short), "--run", str(tmp_path / "run")]) == 0
    _, config = read_manifest(tmp_path / "run" / "adapter")
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_same_command_again_gives_the_same_adapter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_file(folder / "run" / "adapter" / "adapter.safetensors")
    assert main([*training(folder), "--run", str(folder / "run")]) == 0
    after = load_file(folder / "run" / "adapter" / "adapter.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert str(folder / "run" / "adapter") in capsys.readouterr().out


def test_a_run_told_to_end_leaves_a_checkpoint_and_goes_on(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*training(folder, "--epochs", "4000", "--evaluations", "1"), "--run", str(run)]
    whole = [sys.executable, "-m", "cgclora", *command]
    log = run / "log.jsonl"
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not log.exists() or not log.read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 6
    checkpoint = next(iter(checkpoints(run / "checkpoints")), None)
    assert checkpoint is not None
    assert f"stopped at step {step_of(checkpoint)} of" in said
    # The log is as without a stop: what came since its last line is in the checkpoint.
    assert json.loads(log.read_text().splitlines()[-1])["step"] <= step_of(checkpoint)


def test_a_training_command_leaves_the_process_as_it_found_it(folder: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main([*training(folder, "--epochs", "0.1"), "--run", str(tmp_path / "run")]) == 0
    assert signal.getsignal(signal.SIGTERM) == before
