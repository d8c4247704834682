import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cgclora.storage.atomic_io import (
    is_temporary,
    read_sealed,
    recover_folder,
    recover_folders,
    replace_folder,
    sha256_file,
    whole_lines,
    write_json,
    write_sealed,
    write_text,
)


def fill(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a").write_text(text)
    (folder / "sub").mkdir()
    (folder / "sub" / "b").write_text(text)


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("a", "sub/b")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    published = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    )
    assert sha256_file(tmp_path / "abc") == published


def test_text_is_written_as_given_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "old")
    write_text(tmp_path / "text", "你好\nnew\n")
    assert (tmp_path / "text").read_bytes() == "你好\nnew\n".encode()
    assert names(tmp_path) == ["text"]


def test_a_failed_write_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_text(tmp_path / "text", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "old"
    assert names(tmp_path) == ["text"]


def test_readers_see_one_text_or_the_other(tmp_path: Path) -> None:
    path, texts = tmp_path / "text", ["a" * 100_000, "b" * 100_000]
    write_text(path, texts[0])

    def write() -> None:
        for turn in range(30):
            write_text(path, texts[turn % 2])

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert names(tmp_path) == ["text"]


def test_json_is_readable_and_keeps_the_order(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"b": "中文", "a": [1.5, None]})
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"b": "中文", "a": [1.5, None]}
    assert text.index('"b"') < text.index('"a"')
    assert "中文" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_say(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "value.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", {"loss": value})
    assert json.loads((tmp_path / "value.json").read_text()) == 1


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with replace_folder(target) as fresh:
        fill(fresh, "old")
        (fresh / "only old").write_text("")
    with replace_folder(target) as fresh:
        assert names(fresh) == []
        assert content(target) == ["old", "old"]
        fill(fresh, "new")
    assert content(target) == ["new", "new"]
    assert names(target) == ["a", "sub"]
    assert names(target.parent) == ["target"]


@pytest.mark.parametrize("exists", [False, True])
def test_an_exception_leaves_the_folder_as_it_was(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        fill(target, "old")

    def interrupted() -> None:
        with replace_folder(target) as fresh:
            fill(fresh, "new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == (["target"] if exists else [])
    assert not exists or content(target) == ["old", "old"]


def test_a_failed_swap_gives_the_old_folder_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "target", Path.rename

    def refuse_new(self: Path, to: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, to)

    fill(target, "old")
    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="Input/output"), replace_folder(target) as fresh:
        fill(fresh, "new")
    assert content(target) == ["old", "old"]
    assert names(tmp_path) == ["target"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    with (
        pytest.raises(NotADirectoryError, match="not a folder"),
        replace_folder(tmp_path / "target"),
    ):
        pass
    assert (tmp_path / "target").read_text() == "precious"


def test_a_link_still_leads_to_the_folder(tmp_path: Path) -> None:
    fill(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replace_folder(tmp_path / "link") as fresh:
        fill(fresh, "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == ["new", "new"]
    assert names(tmp_path) == ["link", "real"]


def test_writers_of_one_folder_wait_for_one_another(tmp_path: Path) -> None:
    target = tmp_path / "target"

    def write(text: str) -> None:
        with replace_folder(target) as fresh:
            fill(fresh, text)

    writers = [threading.Thread(target=write, args=(str(n),)) for n in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    first, second = content(target)
    assert first == second
    assert names(tmp_path) == ["target"]


# What a crash leaves on disk: which siblings there are, and what `target` must hold afterwards.
@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ({"target": "old", ".target.new": "half"}, "old"),  # while filling
        ({".target.new": "half"}, None),  # while filling for the first time
        ({".target.old": "old", ".target.new": "new"}, "old"),  # between the two renames
        ({"target": "new", ".target.old": "old"}, "new"),  # before the old one is removed
        ({"target": "new"}, "new"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("lock_is_left", [False, True])
def test_recovery_sorts_out_every_state(
    tmp_path: Path, siblings: dict[str, str], expected: str | None, lock_is_left: bool
) -> None:
    target = tmp_path / "target"
    for name, text in siblings.items():
        fill(tmp_path / name, text)
    if lock_is_left:
        (tmp_path / ".target.lock").touch()
    recover_folder(target)
    assert names(tmp_path) == ([] if expected is None else ["target"])
    assert expected is None or content(target) == [expected, expected]


def test_recovery_leaves_a_living_writer_alone(tmp_path: Path) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    with replace_folder(target) as fresh:
        fill(fresh, "new")
        reader = threading.Thread(target=recover_folder, args=(target,))
        reader.start()
        reader.join()
        assert content(fresh) == ["new", "new"]
        assert content(target) == ["old", "old"]
    assert content(target) == ["new", "new"]


_WRITER = """
import os, shutil, signal, sys
from pathlib import Path
from cgclora.storage.atomic_io import replace_folder

target, moment = Path(sys.argv[1]), sys.argv[2]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

rename = Path.rename
def rename_once(self, to):
    rename(self, to)
    die()

if moment == "between the renames":
    Path.rename = rename_once
if moment == "before the old is removed":
    shutil.rmtree = die
with replace_folder(target) as fresh:
    (fresh / "a").write_text("new")
    (fresh / "sub").mkdir()
    if moment == "while filling":
        die()
    (fresh / "sub" / "b").write_text("new")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("next_step", [recover_folder, replace_folder])
@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("while filling", "old"),
        ("between the renames", "old"),
        ("before the old is removed", "new"),
    ],
)
def test_a_killed_writer_leaves_a_whole_folder(
    tmp_path: Path, moment: str, expected: str, next_step: Callable[[Path], object]
) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    writer = subprocess.run(
        [sys.executable, "-c", _WRITER, str(target), moment],
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert writer.returncode == -signal.SIGKILL
    assert names(tmp_path) != ["target"]
    if next_step is recover_folder:
        recover_folder(target)
        assert content(target) == [expected, expected]
    else:
        with replace_folder(target) as fresh:
            assert content(target) == [expected, expected]
            fill(fresh, "newer")
        assert content(target) == ["newer", "newer"]
    assert names(tmp_path) == ["target"]


def test_only_whole_lines_of_a_growing_log_count(tmp_path):
    log = tmp_path / "log.jsonl"
    assert whole_lines(log) == []
    lines = ['{"task": "一\u2028二"}', "{}"]  # U+2028 ends a line for `splitlines`, not here
    whole = "".join(f"{line}\n" for line in lines).encode()
    log.write_bytes(whole + "三".encode()[:2])
    assert whole_lines(log) == lines


def test_bytes_that_are_no_text_spoil_their_own_line_alone(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"a": 1}\n{"b": \xff}\n{"c": 3}\n')
    first, _, third = whole_lines(log)
    assert (first, third) == ('{"a": 1}', '{"c": 3}')


def test_any_flipped_bit_of_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    path, values = tmp_path / "facts.json", {"name": "中文", "score": 0.5, "of": [1, None, True]}
    write_sealed(path, values)
    assert read_sealed(path) == values
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        try:
            found = read_sealed(path)
        except ValueError:
            continue
        # White space, or the word `seal` itself, says nothing of the values.
        assert {name: found.get(name) for name in values} == values


def test_what_is_no_text_is_not_shown_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(b'{"a": "' + 1000 * b"x" + b'\xff"}')
    with pytest.raises(ValueError, match="position 1007") as caught:
        read_sealed(tmp_path / "facts.json")
    assert len(repr(caught.value)) < 100


def test_what_has_no_seal_is_read_and_what_is_no_object_is_not(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", {"a": 1})
    assert read_sealed(tmp_path / "old.json") == {"a": 1}
    write_json(tmp_path / "list.json", [1])
    with pytest.raises(ValueError, match="a list where an object should be"):
        read_sealed(tmp_path / "list.json")


def test_folders_get_their_names_back_before_somebody_looks_which_there_are(tmp_path: Path) -> None:
    fill(tmp_path / ".lost.old", "old")
    fill(tmp_path / ".lost.new", "new")
    fill(tmp_path / "whole", "whole")
    recover_folders(tmp_path)
    assert names(tmp_path) == ["lost", "whole"]
    assert content(tmp_path / "lost") == ["old", "old"]


def test_what_a_killed_write_leaves_is_known(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda self, to: None)
    write_text(tmp_path / "text", "new")
    (left,) = tmp_path.iterdir()
    assert is_temporary(left)
    assert not any(is_temporary(tmp_path / name) for name in ("text", ".text", ".text.lock"))
