"""The verdict in a report, as text, Markdown and JSON."""

import json

import pytest

from evals.__main__ import main
from evals.leaderboard.board import boards
from evals.leaderboard.report import report, values
from evals.methods import CGC_LORA, FULL
from tests.helpers.run_dirs import around, write_run


@pytest.fixture
def runs(tmp_path):
    for method, value, size in ((CGC_LORA, 0.9, 5_700_000), (FULL, 0.3, 1_900_000)):
        write_run(
            tmp_path / method, {"NER": around(value)}, method=method, trainable_parameters=size
        )
    return tmp_path


def test_a_verdict_stands_below_its_board(runs):
    text = report(boards(runs))
    assert text.index("scores by task") < text.index(": verdict\n") < text.index("elsewhere")
    assert "\nTake CGC-LoRA (5.7 M parameters): every clearly smaller method is surely" in text
    assert "\n- Take CGC-LoRA (5.7 M parameters)" in report(boards(runs), markdown=True)


def test_json_has_the_findings_and_their_words(runs):
    (board,) = json.loads(json.dumps(values(boards(runs), language="zh")))["boards"]
    assert board["verdict"]["choices"][-1]["parameters"] == 5_700_000
    assert board["verdict"]["nearest"]["gain"]["value"] == pytest.approx(0.6)
    assert board["sentences"][0]["kind"] == "leader"
    assert board["sentences"][0]["text"].startswith("CGC-LoRA 的“新闻实体识别”得分确实高于")


def test_the_command_takes_a_budget_and_a_language(runs, capsys):
    assert main(["report", str(runs), "--budget", "2e6", "--language", "zh"]) == 0
    assert "参数不超过 2 M 时选 LoRA (Full)" in capsys.readouterr().out
    assert main(["report", str(runs), "--budget", "2e6", "--json"]) == 0
    (board,) = json.loads(capsys.readouterr().out)["boards"]
    assert (board["verdict"]["budget"], board["verdict"]["within"]["name"]) == (2_000_000, FULL)


@pytest.mark.parametrize("budget", ["much", "-1", "inf", "nan"])
def test_a_wrong_budget_says_what_is_right(runs, budget, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(runs), f"--budget={budget}"])
    assert "no number of parameters: give one like 2e6" in capsys.readouterr().err
