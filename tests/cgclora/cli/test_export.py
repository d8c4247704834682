"""`python -m cgclora export`: every format, and what is wrong with a call."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.models.backbone import load_backbone
from tests.helpers.exports import CGC
from tests.helpers.reference import scatter
from tests.helpers.tiny import save_backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone and an adapter that knows it as its folder's name."""
    folder = tmp_path_factory.mktemp("saved")
    backbone = load_backbone(save_backbone(folder / "backbone", "gemma3"), device="cpu")
    scatter(Adapter.attach(backbone, CGC)).save(folder / "adapter")
    return folder


def exporting(saved: Path, *more: str) -> list[str]:
    return [
        *("export", "--adapter", str(saved / "adapter"), "--backbone", str(saved / "backbone")),
        *more,
    ]


@pytest.mark.parametrize(
    ("words", "count", "file"),
    [
        (["--format", "peft"], 3, "mood/adapter_model.safetensors"),
        (["--format", "peft", "--task", "mood"], 1, "adapter_model.safetensors"),
        (["--format", "gguf", "--precision", "float16"], 3, "mood.gguf"),
        (["--format", "merged", "--task", "mood"], 1, "model.safetensors"),
        (["--format", "vllm", "--base", "x/y"], 3, "serve.sh"),
    ],
)
def test_the_command_exports(saved, tmp_path, capsys, words, count, file):
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"), "--json")) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert len(manifest["export"]["tasks"]) == count
    assert file in manifest["files"]
    assert (tmp_path / "out" / file).is_file()
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"))) == 0
    assert f"{count} task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "peft", "--task", "nobody"], 2, "unknown task 'nobody'"),
        (["--format", "merged"], 2, "name one --task"),
        (["--format", "merged", "--task", "nobody"], 2, "unknown task 'nobody'"),
        (["--format", "gguf", "--adapter", "other"], 2, "takes one --adapter"),
        (["--format", "peft", "--backbone", "nowhere/at-all"], 3, "no folder here"),
        (["--format", "vllm"], 2, "give --base"),
    ],
)
def test_the_command_says_what_is_wrong(saved, tmp_path, capsys, words, code, message):
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"))) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_does_not_wait_for_torch():
    program = (
        "import sys; from cgclora.__main__ import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
