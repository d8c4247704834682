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


COMMANDS = """
import json, sys
import cgclora.__main__, evals.__main__
for package, *words in json.loads(sys.argv[1]):
    code = getattr(sys.modules[f"{package}.__main__"], "main")(words)
    print("\\0", flush=True)
    if code:
        sys.exit(f"{package} {words} ended with {code}")
print(cgclora.__file__, evals.__file__)
"""


def run(installed: Path, folder: Path, *commands: tuple[str, ...]) -> list[str]:
    """The output of each command, whose packages are the wheel's, and where those lie."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\0")


def test_the_wheel_holds_the_library_and_the_judge_with_their_files(installed):
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"cgclora", "evals"}
    for package, ending in (
        *(("cgclora", "yaml"), ("evals", "yaml")),
        *(("evals", "toml"), ("evals", "jsonl")),
    ):
        names = {path.name for path in (ROOT / package).rglob(f"*.{ending}")}
        assert {path.name for path in (installed / package).rglob(f"*.{ending}")} == names != set()


def test_it_trains_answers_and_evaluates_outside_of_a_checkout(installed, tmp_path):
    save_backbone(tmp_path / "backbone")
    data = tmp_path / "own.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    data.write_text("\n".join(lines), encoding="utf-8")
    adapter = ("--adapter", "run/adapter", "--backbone", "backbone")
    training = ("--data", "own.jsonl", "--dev", "own.jsonl", "--run", "run", "--epochs", "1")
    prompt = ("--task", "CHIP-CTC", "--max-new-tokens", "3", "CHIP-CTC: 1")
    options = ("--data", "own.jsonl", "--run", "answers", "--json")
    _, answer, scores, report, where = run(
        installed,
        tmp_path,
        ("cgclora", "train", "--backbone", "backbone", *training),
        ("cgclora", "generate", *adapter, *prompt),
        ("evals", "run", *adapter, *options),
        ("evals", "report", "answers"),
    )
    assert answer.strip()
    assert json.loads(scores)["metrics"].keys() == {"KUAKE-QTR", "CHIP-CTC"}
    assert "CHIP-CTC" in report
    assert all(Path(path).is_relative_to(installed) for path in where.split())
