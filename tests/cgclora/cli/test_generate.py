"""`python -m cgclora generate` answers as the library does."""

import io
import json
import sys
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from cgclora.models.backbone import load_backbone
from tests.helpers.commands import PROMPT, answering, asked, write


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
