"""What dev losses tell before there are scores."""

import math

from evals.leaderboard.verdict.dev_losses import DevLoss, dev_sentences, dev_verdict

LOSSES = {
    "MOE-LoRA": {1e-4: 0.9, 1e-3: 0.6, 3e-3: 0.7},
    "CGC-LoRA": {1e-4: 0.8, 1e-3: 0.65, 3e-3: 0.5},
    "LoRA (Full)": {1e-4: 0.55, 1e-3: 0.7, 3e-3: None},
    "mine": {1e-4: math.inf, 1e-3: math.nan},
    "waiting": {},
}


def texts(language, *losses):
    return [one.text for one in dev_sentences(dev_verdict(*losses), language)]


def test_the_method_with_the_lowest_loss_at_its_best_rate_leads():
    found = dev_verdict(LOSSES)
    assert found.methods == (
        DevLoss("CGC-LoRA", 0.5, 3e-3, 3, "highest"),
        DevLoss("LoRA (Full)", 0.55, 1e-4, 3, "lowest"),
        DevLoss("MOE-LoRA", 0.6, 1e-3, 3, None),
    )
    assert found.diverged == ("mine",)
    assert (found.ahead, found.tasks) == (None, 0)


def test_a_rate_below_one_that_diverged_is_not_the_highest():
    (only,) = dev_verdict({"A": {1e-4: 0.9, 1e-3: 0.6, 1e-2: math.inf}}).methods
    assert only == DevLoss("A", 0.6, 1e-3, 3, None)
    (only,) = dev_verdict({"A": {1e-3: 0.6}}).methods
    assert only.edge is None


def test_tasks_that_every_method_has_are_counted():
    losses = {"A": {1e-3: 0.5}, "B": {1e-3: 0.6}}
    by_task = {"A": {"x": 0.1, "y": 0.9, "z": 0.1}, "B": {"x": 0.2, "y": 0.8}}
    found = dev_verdict(losses, by_task)
    assert (found.ahead, found.tasks) == (1, 2)


def test_a_loss_is_not_said_to_be_a_score():
    first, second, *_ = texts("en", {"A": {1e-3: 0.5}, "B": {1e-3: 0.6}}, None)
    assert first == (
        "A has the lowest dev loss so far (0.500 nats per token at learning rate 0.001; next B, "
        "0.600)."
    )
    assert second.startswith("Dev loss is not a score")
    first, second, *_ = texts("zh", LOSSES, None)
    assert first == (
        "目前开发集损失最低的是 CGC-LoRA（每词元 0.500 nat，学习率 0.003；"
        "其次是 LoRA (Full)，0.550）。"
    )
    assert second.startswith("开发集损失不是得分")


def test_an_unfair_or_unfinished_search_is_said():
    said = texts("en", LOSSES, None)
    assert "The best learning rate of LoRA (Full) is the lowest tried: a lower one" in said[2]
    assert "The best learning rate of CGC-LoRA is the highest tried: a higher one" in said[3]
    assert said[4] == "Training of mine diverged."
    said = texts("en", {"A": {1e-3: 0.5}, "B": {1e-3: 0.6, 1e-2: 0.7}}, None)
    assert "have tried 1 to 2 learning rates" in said[2]
    assert "only method" in texts("en", {"A": {1e-3: 0.5}}, None)[0]
    assert texts("en", {"A": {}}) == ["There is no dev loss yet."]
    by_task = {name: {"x": 0.1} for name in "AB"}
    said = texts("zh", {"A": {1e-3: 0.5}, "B": {1e-3: 0.6}}, by_task)
    assert "1 个任务中有 1 个最低" in said[0]
