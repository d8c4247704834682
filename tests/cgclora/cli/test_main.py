"""The command line: its errors with their exit codes, and its help."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.cli import exit_codes
from tests.helpers.commands import PROMPT, answering, training, write
from tests.helpers.tiny import save_backbone

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
