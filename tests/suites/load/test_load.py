"""Many users at once, in short; `make load` takes ten minutes and the embedded backbone."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cgclora.inference.engine import generate
from cgclora.inference.request import Request
from evals.tasks import TASKS
from tests.helpers.tiny import make_backbone
from tests.suites.fuzz.calls import TASKS as FUZZED
from tests.suites.fuzz.run import serving
from tests.suites.load import run
from tests.suites.load.judge import Judge
from tests.suites.load.prompt import Prompt
from tests.ui.test_app import save_adapters

PROMPTS = [Prompt("general", task, "你好") for task in ("NER", "NER", "Couplet")]


def seen(**counts: int) -> run.Seen:
    found = run.Seen(seconds=[1.0, 2.0, 3.0], alone=["有", "无", "一帘风雨"])
    found.counts.update(counts)
    found.memory = [(10.0 * n, 10**9) for n in range(60)]
    return found


def gap(asked: Prompt, text: str) -> float:
    return {"有了": 0.25, "春眠": 0.0}.get(text, math.inf)


def test_a_report_says_which_bars_were_missed() -> None:
    good = run.report(seen(own=3), {"quiet_after": 1.0}, PROMPTS, gap, alive=True, log="")
    assert all(good["reached"].values())
    assert good["memory"]["megabytes_a_minute"] == pytest.approx(0)
    grown = seen(lost=1)
    grown.apart[0, "无"] += 1
    grown.memory = [(at, size + int(at * 10**6)) for at, size in grown.memory]
    log = "Traceback (most recent call last):\nValueError: x"
    bad = run.report(grown, {"quiet_after": None}, PROMPTS, gap, alive=False, log=log)
    assert not any(bad["reached"].values())
    assert bad["memory"]["megabytes_a_minute"] == pytest.approx(60)


def test_answers_that_differ_are_told_from_those_of_somebody_else() -> None:
    found = seen(own=5)
    found.apart.update({(0, "有了"): 2, (2, "春眠"): 1, (1, "一帘风雨"): 3})
    told = run.report(found, {"quiet_after": 1.0}, PROMPTS, gap, alive=True, log="")
    assert told["answers"] == {"own": 5, "close": 3, "other": 3, "lost": 0}
    assert told["nats"]["close"] == 0.25
    assert told["strange"] == [[1, "一帘风雨"]]
    assert told["exchanged"] == {"tried": 3, "found": 3}


def test_answers_are_exchanged_within_a_task_if_they_can_be() -> None:
    assert [*run.exchanged(PROMPTS, ["有", "无", "一帘风雨"])] == [(0, "无"), (1, "有"), (2, "有")]
    assert [*run.exchanged(PROMPTS, ["有", "有", "春眠"])] == [(0, "春眠"), (1, "春眠"), (2, "有")]
    assert not [*run.exchanged(PROMPTS[:1], ["有"])]


def test_the_judge_knows_what_a_prompt_gets(tmp_path: Path) -> None:
    adapters = save_adapters(tmp_path)
    backbone = make_backbone()
    words = [backbone.tokenizer.decode([token]) for token in range(len(backbone.tokenizer))]
    with torch.no_grad():  # half characters are not said: random ones add up to anything
        halves = [token for token, word in enumerate(words) if "\ufffd" in word]
        backbone.model.get_output_embeddings().weight[halves] = 0
    judge = Judge(backbone, {"general": adapters / "general"})
    cases = [Prompt("general", "Couplet", words) for words in ("春眠不觉晓", "灯光柔和")]
    texts = []
    for case in cases:
        request = Request(case.task, case.prompt, TASKS[case.task].max_new_tokens)
        (answer,) = generate(backbone, [request], judge.clusters)
        texts.append(answer.text)
        assert judge.gap(case, answer.text) == pytest.approx(0, abs=1e-4)
        assert judge.gap(case, answer.text[:-1]) > 1e-3
    assert texts[0] != texts[1]
    assert judge.gap(cases[0], texts[1]) > 1e-3
    assert judge.gap(cases[0], "（未知）" * 200) == math.inf


def test_users_at_once_get_their_own_answers_and_those_who_leave_cost_nothing() -> None:
    with serving() as (app, _):
        prompts = run.shipped_prompts({"general": FUZZED})
        found, ended = run.load(app, prompts, users=8, seconds=8, movers=1)
        alive, log = app.process.poll() is None, app.log.read_text()

    def gap(_: Prompt, text: str) -> float:
        return math.inf if text in found.alone else 0.0  # the tiny model knows no likely words

    told = run.report(found, ended, prompts, gap, alive=alive, log=log)
    assert all(told["reached"].values()), json.dumps(told, indent=1, ensure_ascii=False)
    assert told["answers"]["own"] > 0
    assert told["slider moves"] > 0


_HOLD_ON = """
import os, time
from tests.browser.app_server import held
from ui.engine import memory

parts = [bytearray(100_000) for _ in range(2000)]  # each too small for a place of its own
last = bytearray(100_000)  # keeps what is freed below it from going by itself
del parts
before = held(os.getpid(), "VmRSS")
memory._TRIM_SECONDS = 0.1
memory.bound_memory()
time.sleep(1)
print(before - held(os.getpid(), "VmRSS"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's alone")
def test_memory_that_nothing_uses_goes_back_to_the_machine() -> None:
    command = [sys.executable, "-c", _HOLD_ON]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(said.stdout) > 100_000_000
