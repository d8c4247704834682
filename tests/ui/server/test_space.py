"""What is pushed to a Space, and what is said before it is."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ui.server.space import LARGE_BYTES, LEFT_OUT, SpaceError, main, prepare, problems
from ui.server.space import ROOT as REPOSITORY

README = """---
title: Test
emoji: 🧩
colorFrom: indigo
colorTo: yellow
sdk: gradio
sdk_version: 6.31.0
python_version: 3.12.12
app_file: app.py
license: apache-2.0
short_description: Short
suggested_hardware: cpu-basic
models:
  - one/model
tags:
  - lora
---
"""
REQUIREMENTS = """# both
torch==2.13.0; python_version != "3.12"
torch==2.11.0; python_version == "3.12"
gradio==6.31.0
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that would be pushed now."""
    folder = tmp_path_factory.mktemp("space") / "out"
    prepare(folder)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository that is a Space, too."""
    folder = tmp_path / "repository"
    (folder / "tests").mkdir(parents=True)
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    (folder / ".gitattributes").write_text("* text=auto eol=lf\n*.png binary\n", encoding="utf-8")
    (folder / "app.py").write_text("print('hello')\n", encoding="utf-8")
    (folder / "tests" / "test_app.py").write_text("", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    return folder


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_all_that_is_tracked_is_pushed_but_for_tests_and_ci(prepared):
    tracked = git(REPOSITORY, "ls-files", "-z").split("\0")
    there = {
        path.relative_to(prepared).as_posix() for path in prepared.rglob("*") if path.is_file()
    }
    assert there == {name for name in tracked if name and not name.startswith(LEFT_OUT)}
    assert {
        "app.py",
        "README.md",
        "requirements.txt",
        "assets/adapters/medical/config.json",
    } <= there


def test_git_would_put_every_binary_file_into_the_large_file_storage(prepared):
    git(prepared, "init", "--quiet")
    for name in ("assets/adapters/medical/adapter.safetensors", "assets/screenshots/try.png"):
        assert git(prepared, "check-attr", "filter", name).strip() == f"{name}: filter: lfs"
    assert "unspecified" in git(prepared, "check-attr", "filter", "app.py")


def test_what_is_not_tracked_stays_here(repository, tmp_path):
    (repository / "runs").mkdir()
    (repository / "runs" / "secret.txt").write_text("mine", encoding="utf-8")
    names = prepare(tmp_path / "out", repository)
    assert names == [".gitattributes", "README.md", "app.py", "requirements.txt"]
    assert problems(tmp_path / "out") == []


def replaced(old: str, new: str, file: str = "README.md") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), encoding="utf-8")

    return change


def written(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


PINS = "requirements.txt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("title: Test\n", ""), "title is None, expected a text"),
        (replaced("🧩", "x"), "emoji is 'x', expected an emoji"),
        (replaced("indigo", "orange"), "colorFrom is 'orange', expected one of red"),
        (replaced("sdk: gradio", "sdk: docker"), "sdk is 'docker', expected gradio"),
        (replaced("sdk_version: 6.31.0", "sdk_version: 6.30.0"), "let both say the same"),
        (replaced("3.12.12", "3.13"), "python_version is 3.13, expected one of 3.10.13, 3.12.12"),
        (replaced("app.py", "main.py"), "app_file is 'main.py', expected a file"),
        (replaced("apache-2.0", ""), "license is None, expected a text"),
        (replaced("Short", "x" * 61), "a text of 1 to 60 characters"),
        (replaced("cpu-basic", "abacus"), "suggested_hardware is 'abacus'"),
        (replaced("models:\n  - one/model\n", ""), "models is None, expected a list"),
        (replaced("tags:\n  - lora\n", "tags: lora\n"), "tags is 'lora', expected a list"),
        (replaced("==2.11.0", "==2.13.0", PINS), "Python 3.12 gets torch 2.13.0"),
        (replaced('== "3.12"', '== "3.9"', PINS), "Python 3.12 gets torch of any kind"),
        (replaced("!=", "<=", PINS), "Python 3.12 gets torch 2.13.0 and 2.11.0"),
        (replaced("gradio==", "gradio>=", PINS), "gradio>=6.31.0 is not pinned"),
        (replaced("# both", "a b c", PINS), "cannot be read"),
        (replaced("title: Test", "title: ]"), "cannot be read"),
        (written("notes.txt", b"x" * (LARGE_BYTES + 1)), "notes.txt has 10 MiB: add a line"),
        (written("weights.bin", b"\0\1"), "weights.bin is binary: add a line `*.bin binary`"),
    ],
)
def test_what_a_space_would_trip_over_is_said_before_it_is_pushed(
    repository, tmp_path, capsys, change, said
):
    change(repository)
    git(repository, "add", ".")
    with pytest.raises(SpaceError) as problem:
        prepare(tmp_path / "out", repository)
    assert said in str(problem.value)
    assert not (tmp_path / "out").exists()


def test_a_large_file_of_a_kind_that_is_marked_is_taken(repository, tmp_path):
    (repository / "large.png").write_bytes(b"\0" * (LARGE_BYTES + 1))
    git(repository, "add", ".")
    assert "large.png" in prepare(tmp_path / "out", repository)


def test_more_than_the_hub_takes_is_refused(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("ui.server.space.MAX_BYTES", 100)
    with pytest.raises(SpaceError, match="all files together"):
        prepare(tmp_path / "out", repository)


def test_a_folder_that_holds_something_is_left_alone(prepared, capsys):
    before = sorted(prepared.iterdir())
    assert main([str(prepared)]) == 1
    assert "holds something: name a new folder" in capsys.readouterr().err
    assert sorted(prepared.iterdir()) == before


def test_outside_a_clone_the_command_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpaceError, match="run this in a clone"):
        prepare(tmp_path / "out", tmp_path / "empty")
