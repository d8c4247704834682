"""Results that are kept for the next visitor."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from ui.components.remembered import Remembered, is_small, stamp


def test_a_result_is_made_once_and_the_oldest_gives_way() -> None:
    made: list[int] = []

    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    doubled = Remembered(double, size=2)
    assert not doubled.has(1)
    assert [doubled(number) for number in (1, 2, 1, 3, 1, 2)] == [2, 4, 2, 6, 2, 4]
    assert made == [1, 2, 3, 2]  # 2 was asked for before 1 was, so 3 took its place
    assert doubled.has(1)
    assert not doubled.has(3)


def test_who_asks_meanwhile_waits_for_the_first() -> None:
    started, go, made = Event(), Event(), []

    def slow(number: int) -> int:
        started.set()
        assert go.wait(10)
        made.append(number)
        return number

    remembered = Remembered(slow)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(remembered, 7) for _ in range(3)]
        assert started.wait(10)
        assert not remembered.has(7)
        go.set()
        assert [one.result(10) for one in asked] == [7, 7, 7]
    assert made == [7]


def test_an_exception_reaches_all_who_wait_and_is_not_kept() -> None:
    together = Barrier(2, timeout=10)
    calls = []

    def fail(number: int) -> int:
        calls.append(number)
        if len(calls) == 1:
            together.wait()
            raise ValueError("once")
        return number

    remembered = Remembered(fail)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(remembered, 7)
        together.wait()
        with pytest.raises(ValueError, match="once"):
            first.result(10)
    assert not remembered.has(7)
    assert remembered(7) == 7


def test_a_stamp_changes_with_any_file_of_records_of_a_folder(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("{}\n")
    (tmp_path / "notes.txt").write_text("no records")
    before = stamp([tmp_path])
    assert before == stamp([train])
    assert is_small(before)
    (tmp_path / "dev.json").write_text("[]")
    more = stamp([tmp_path])
    train.write_text("{} \n")
    assert len({before, more, stamp([tmp_path])}) == 3
    train.write_text("x" * 2**20 + "x")
    assert not is_small(stamp([train]))
    with pytest.raises(FileNotFoundError):
        stamp([tmp_path / "gone.jsonl"])
