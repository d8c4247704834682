"""Many users at once, in short; `make load` takes ten minutes and the embedded backbone."""

import json
import subprocess
import sys

import pytest

from tests import load
from tests.fuzz import serving
from tests.fuzz_calls import TASKS

ALONE = ["有", "无", "疾病实体：百日咳", "疾病实体：感冒，发热"]


@pytest.mark.parametrize(
    ("answer", "kind", "astray"),
    [
        ("疾病实体：百日咳", "own", False),
        ("疾病实体：感冒，发热", "other", True),
        ("疾病实体：百日咳嗽", "close", False),
        ("疾病实体：感冒，发烧", "close", True),
    ],
)
def test_an_answer_is_told_from_those_of_other_prompts(
    answer: str, kind: str, astray: bool
) -> None:
    assert load.kind_of(2, answer, ALONE) == kind
    assert load.is_astray(2, answer, ALONE) == astray


def seen(**counts: int) -> load.Seen:
    found = load.Seen(seconds=[1.0, 2.0, 3.0])
    found.counts.update(counts)
    found.memory = [(10.0 * n, 10**9) for n in range(60)]
    return found


def test_a_report_says_which_bars_were_missed() -> None:
    good = load.report(seen(own=3), {"quiet_after": 1.0}, alive=True, log="")
    assert all(good["reached"].values())
    assert good["memory"]["megabytes_a_minute"] == pytest.approx(0)
    grown = seen(other=1, lost=1)
    grown.memory = [(at, size + int(at * 10**6)) for at, size in grown.memory]
    bad = load.report(
        grown,
        {"quiet_after": None},
        alive=False,
        log="Traceback (most recent call last):\nValueError: x",
    )
    assert not any(bad["reached"].values())
    assert bad["memory"]["megabytes_a_minute"] == pytest.approx(60)


def test_users_at_once_get_their_own_answers_and_those_who_leave_cost_nothing() -> None:
    with serving() as (app, _):
        prompts = load.shipped_prompts({"general": TASKS})
        found, ended = load.load(app, prompts, users=8, seconds=8, movers=1)
        told = load.report(found, ended, alive=app.process.poll() is None, log=app.log.read_text())
        assert all(told["reached"].values()), json.dumps(told, indent=1, ensure_ascii=False)
        assert told["answers"]["own"] > 0
        assert told["slider moves"] > 0


_HOLD_ON = """
import os, time
from tests.app_server import held
from ui import memory

parts = [bytearray(100_000) for _ in range(2000)]  # each too small for a place of its own
last = bytearray(100_000)  # keeps what is freed below it from going by itself
del parts
before = held(os.getpid(), "VmRSS")
memory._SECONDS = 0.1
memory.bound_memory()
time.sleep(1)
print(before - held(os.getpid(), "VmRSS"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_memory_that_nothing_uses_goes_back_to_the_machine() -> None:
    command = [sys.executable, "-c", _HOLD_ON]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(said.stdout) > 100_000_000
