"""The wheel works outside of a checkout: it trains, answers and evaluates one's own file."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.tiny import save_backbone

ROOT = Path(__file__).parents[2]

RECORDS = [
    {"task": task, "input": f"{task}: {number}", "target": "对" if number % 2 else "错"}
    for task in ("KUAKE-QTR", "CHIP-CTC")
    for number in range(8)
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, as pip would unpack it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> str:
    """The output of a command whose packages are the wheel's."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_the_library_and_the_judge_with_their_files(installed):
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"cgclora", "evals"}
    for package, ending in (("cgclora", "yaml"), ("evals", "toml")):
        names = {path.name for path in (ROOT / package).rglob(f"*.{ending}")}
        assert {path.name for path in (installed / package).rglob(f"*.{ending}")} == names != set()


def test_it_trains_answers_and_evaluates_outside_of_a_checkout(installed, tmp_path):
    save_backbone(tmp_path / "backbone")
    data = tmp_path / "own.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    data.write_text("\n".join(lines), encoding="utf-8")
    adapter = ("--adapter", "run/adapter", "--backbone", "backbone")
    code = "import cgclora.config, evals; print(cgclora.config.__file__, evals.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(Path(path).is_relative_to(installed) for path in where.split())
    training = ("--data", "own.jsonl", "--dev", "own.jsonl", "--run", "run", "--epochs", "1")
    run(installed, tmp_path, "cgclora", "train", "--backbone", "backbone", *training)
    prompt = ("--task", "CHIP-CTC", "--max-new-tokens", "3", "CHIP-CTC: 1")
    run(installed, tmp_path, "cgclora", "generate", *adapter, *prompt)
    options = ("--data", "own.jsonl", "--run", "answers", "--json")
    scored = json.loads(run(installed, tmp_path, "evals", "run", *adapter, *options))
    assert scored["metrics"].keys() == {"KUAKE-QTR", "CHIP-CTC"}
    run(installed, tmp_path, "evals", "report", "answers")
