"""The command line: from data to an answer, its output for people and machines, its exit codes."""

import errno
import io
import json
import os
import shutil
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
from cgclora.adapter import Adapter
from cgclora.cli import exit_codes
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.models.backbone import load_backbone
from cgclora.models.gates import read_gates
from cgclora.storage.adapter_dir import MANIFEST_FILE, annotate, read_manifest
from cgclora.storage.run_dir import checkpoints, step_of
from tests.helpers.tiny import save_backbone

PROMPT = "今天天气很好"


def write(path: Path, *records: dict[str, str]) -> Path:
    text = "\n".join(json.dumps(record) for record in records)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone, data, and a run of it."""
    made = tmp_path_factory.mktemp("command line")
    save_backbone(made / "backbone")
    for name, count in (("train", 12), ("dev", 2)):
        write(
            made / f"{name}.jsonl",
            *(
                {"task": task, "input": f"{PROMPT} {index}", "target": target}
                for index in range(count)
                for task, target in (("mood", "好"), ("weather", "Is it"), ("unused", "x"))
            ),
        )
    assert main([*training(made), "--run", str(made / "run")]) == 0
    return made


def training(folder: Path, *more: str) -> list[str]:
    """A training command, without its run folder."""
    return [
        *("train", "--backbone", str(folder / "backbone"), "--device", "cpu", "--dtype", "float32"),
        *("--data", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl")),
        *("--task", "mood", "--task", "weather", "--common", "2", "--batch-size", "4"),
        *("--epochs", "6", "--evaluations", "2", "--learning-rate", "0.02"),
        *more,
    ]


def answering(folder: Path, *more: str) -> list[str]:
    """A command that asks the trained adapter."""
    return [
        *("generate", "--backbone", str(folder / "backbone"), "--device", "cpu"),
        *("--dtype", "float32", "--adapter", str(folder / "run" / "adapter")),
        *more,
    ]


def asked(folder: Path, *requests: Request) -> list[str]:
    """What the library answers."""
    backbone = load_backbone(folder / "backbone", device="cpu", dtype="float32")
    adapter = Adapter.load(folder / "run" / "adapter", backbone)
    return [answer.text for answer in generate(backbone, requests, adapter)]


# train ------------------------------------------------------------------------------------


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


# generate ---------------------------------------------------------------------------------


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


def test_an_answer_is_that_of_the_library(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = asked(folder, Request("mood", PROMPT, max_new_tokens=9))[0]
    command = answering(folder, "--task", "mood", "--max-new-tokens", "9")
    assert main([*command, PROMPT]) == 0
    assert capsys.readouterr().out == expected + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT + "\n"))
    assert main(command) == 0
    assert capsys.readouterr().out == expected + "\n"


def test_options_of_a_request_reach_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = Request(
        "mood", PROMPT, max_new_tokens=7, temperature=1.5, top_p=0.9, seed=3, stop=("a", "e")
    )
    options = ["--max-new-tokens", "7", "--temperature", "1.5", "--top-p", "0.9", "--seed", "3"]
    options += ["--stop", "a", "--stop", "e"]
    assert main([*answering(folder, "--task", "mood", *options), PROMPT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == asked(folder, request)[0]
    choices = ("--choice", "天气", "--choice", "心情")
    assert main([*answering(folder, "--task", "mood", *choices), PROMPT]) == 0
    assert capsys.readouterr().out in {"天气\n", "心情\n"}


def test_a_file_of_mixed_tasks_is_answered_in_its_order(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [("weather", PROMPT), ("mood", PROMPT * 4), ("weather", "?")]
    path = write(tmp_path / "q.jsonl", *({"task": t, "input": p} for t, p in questions))
    expected = asked(folder, *(Request(t, p, max_new_tokens=5) for t, p in questions))
    command = answering(folder, "--file", str(path), "--max-new-tokens", "5", "--batch-size", "2")
    assert main([*command, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == expected
    assert [line["task"] for line in lines] == [task for task, _ in questions]
    assert set(lines[0]) == {"task", "text", "finish", "prompt_tokens", "tokens", "seconds"}


def test_without_an_adapter_the_bare_backbone_answers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = load_backbone(folder / "backbone", device="cpu", dtype="float32")
    (expected,) = generate(backbone, [Request(None, PROMPT, max_new_tokens=5)])
    command = ["generate", "--backbone", str(folder / "backbone"), "--device", "cpu"]
    assert main([*command, "--dtype", "float32", "--max-new-tokens", "5", PROMPT]) == 0
    assert capsys.readouterr().out == expected.text + "\n"


# inspect ----------------------------------------------------------------------------------


def test_inspect_shows_sizes_origin_and_shares(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / "run" / "adapter")]) == 0
    text = capsys.readouterr().out
    manifest, config = read_manifest(folder / "run" / "adapter")
    best = manifest["training"]["best_dev_loss"]
    for word in (
        "2 common + 1 x 2 specific, rank 2 each",
        f"{config.total_rank} total, {config.active_rank} active",
        f"{manifest['trainable_parameters']:,} parameters",
        manifest["backbone"]["fingerprint"][:12],
        str(best),
        "not stated",
        "the fast decoder on cpu",
    ):
        assert word in text
    assert main(["inspect", str(folder / "run" / "adapter"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"] == manifest
    assert facts["config"]["tasks"] == ["mood", "weather"]
    gates = read_gates(folder / "run" / "adapter")
    for row, task in enumerate(config.tasks):
        shares = facts["gate_shares"][task]
        assert shares["common"] == pytest.approx(float(gates[:, row, :2].sum(-1).mean()), abs=1e-6)
        assert shares["common"] + shares["specific"] == pytest.approx(1)
        assert f"{shares['common']:.1%}" in text


def test_inspect_shows_the_accuracies_that_the_manifest_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(folder / "run" / "adapter", tmp_path / "adapter")
    score = {"right": 3, "accuracy": 0.75, "interval": [0.301, 0.954]}
    annotate(adapter, {"classification": {"tasks": {"mood": {"records": 4, "adapter": score}}}})
    assert main(["inspect", str(adapter)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "accuracy (95 % interval)  adapter",
        "mood, 4 records           0.750 (0.301-0.954)",
    ]


# Errors -----------------------------------------------------------------------------------


def failing(case: str, folder: Path, tmp_path: Path) -> list[str]:
    """A command that must fail, by what is wrong with it."""
    bad = write(tmp_path / "bad.jsonl", {"task": "mood", "input": PROMPT})
    data = ("--data", str(bad))
    run = ("--run", str(tmp_path / "run"))
    adapter = str(folder / "run" / "adapter")
    return {
        "unknown task": answering(folder, "--task", "music", PROMPT),
        "adapter without task": answering(folder, PROMPT),
        "task without adapter": [
            *("generate", "--backbone", str(folder / "backbone"), "--task", "mood", PROMPT)
        ],
        "prompt and file": answering(folder, "--file", str(bad), PROMPT),
        "bad rank": training(folder, "--method", "moe-lora", "--rank", "7", *run),
        "bad setting": training(folder, "--epochs", "0", *run),
        "no backbone": ["generate", "--backbone", str(tmp_path / "nothing"), PROMPT],
        "bad data": training(folder, *data, *run),
        "no such data": training(folder, "--data", str(tmp_path / "nothing"), *run),
        "no adapter": ["inspect", str(tmp_path)],
        "other backbone": [
            *("generate", "--backbone", str(save_backbone(tmp_path / "b", seed=1))),
            *("--adapter", adapter, "--task", "mood", PROMPT),
        ],
        "other run": training(folder, "--seed", "9", "--run", str(folder / "run")),
        "not finite": training(folder, "--learning-rate", "1e30", "--warmup", "0", *run),
        "empty prompt": answering(folder, "--task", "mood", " "),
        "too long": answering(folder, "--task", "mood", PROMPT * 60),
        "bad top-p": answering(folder, "--task", "mood", "--top-p", "2", PROMPT),
        "run is a file": training(folder, "--run", str(bad)),
    }[case]


@pytest.mark.parametrize(
    ("case", "code", "word"),
    [
        ("unknown task", 2, "music"),
        ("adapter without task", 2, "--task"),
        ("task without adapter", 2, "--adapter"),
        ("prompt and file", 2, "--file"),
        ("bad rank", 2, "rank 7"),
        ("bad setting", 2, "epochs"),
        ("no backbone", 3, "nothing"),
        ("bad data", 4, "line 1"),
        ("no such data", 4, "nothing"),
        ("no adapter", 5, "manifest.json"),
        ("other backbone", 5, "fingerprint"),
        ("other run", 6, "settings"),
        ("not finite", 6, "step"),
        ("empty prompt", 7, "empty"),
        ("too long", 7, "256 tokens"),
        ("bad top-p", 7, "top_p"),
        ("run is a file", 1, "bad.jsonl"),
    ],
)
def test_an_error_is_one_line_with_a_code_of_its_own(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
    code: int,
    word: str,
) -> None:
    command = failing(case, folder, tmp_path)
    capsys.readouterr()
    assert main(command) == code
    output, error = capsys.readouterr()
    last = error.splitlines()[-1]
    assert last.startswith("cgclora: ")
    assert word in last
    assert "Traceback" not in error
    assert output == ""


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["train"], ["train", "--method", "x"], ["train", "--records-of", "mood"]],
)
def test_wrong_arguments_are_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_interrupted_command_is_a_hundred_and_thirty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cgclora.models.backbone.load_backbone", interrupt)
    assert main(answering(folder, "--task", "mood", PROMPT)) == 130


def test_a_reader_that_has_had_enough_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["inspect", str(folder / "run" / "adapter")]) == 0
        pipe.flush()  # what the interpreter does when it ends


def test_an_error_of_ours_is_not_swallowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("cgclora.models.backbone.load_backbone", fail)
    with pytest.raises(ZeroDivisionError):
        main(answering(folder, "--task", "mood", PROMPT))


# Help -------------------------------------------------------------------------------------

HELP = """
import contextlib, io, sys
import cgclora.convert.hub, cgclora.storage.hub
from cgclora.cli import exit_codes
from cgclora.__main__ import main
for command in ([], ["train"], ["generate"], ["inspect"], ["export"]):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    print(text.getvalue(), end="\\0")
print(sorted({"torch", "transformers", "peft", "numpy"} & set(sys.modules)))
"""


def test_help_is_quick_and_shows_an_example_of_every_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP],
        cwd=Path(sys.modules[main.__module__].__file__ or "").parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    *texts, loaded = shown.split("\0")
    assert loaded.strip() == "[]"
    for command, text in zip(("train", "generate", "inspect", "export"), texts[1:], strict=True):
        assert f"python -m cgclora {command} " in text
        assert f"{command} " in texts[0]
        assert "130  interrupted" in text
        assert max(map(len, text.splitlines())) <= 100


def test_a_full_disk_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/mine/log.jsonl")

    assert exit_codes.run(full) == 1
    assert "runs/mine/log.jsonl': free room on the disk" in capsys.readouterr().err
