"""Which method leads before there are scores, from dev losses alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evals.leaderboard.verdict.words import TEXTS, Sentence, Words
from evals.tasks import Language

_TEXTS: Mapping[str, tuple[str, str]] = {
    **TEXTS,
    "leads": (
        "目前开发集损失最低的是 {best}（{evidence}）。",
        "{best} has the lowest dev loss so far ({evidence}).",
    ),
    "alone": (
        "目前只有 {best} 有开发集损失（{evidence}）。",
        "{best} is the only method with a dev loss so far ({evidence}).",
    ),
    "none": ("还没有开发集损失。", "There is no dev loss yet."),
    "loss": ("每词元 {loss} nat，学习率 {rate}", "{loss} nats per token at learning rate {rate}"),
    "next": ("其次是 {other}，{loss}", "next {other}, {loss}"),
    "ahead": ("{n} 个任务中有 {ahead} 个最低", "lowest on {ahead} of {n} tasks"),
    "no_score": (
        "开发集损失不是得分：按得分排名可能不同，差距大小也还没有区间。",
        "Dev loss is not a score: scores may rank the methods otherwise, and the differences have "
        "no intervals yet.",
    ),
    "lowest": (
        "{names} 的最佳学习率是试过的最低值：更低的可能更好。",
        "The best learning rate of {names} is the lowest tried: a lower one may be better.",
    ),
    "highest": (
        "{names} 的最佳学习率是试过的最高值：更高的可能更好。",
        "The best learning rate of {names} is the highest tried: a higher one may be better.",
    ),
    "uneven": (
        "各方法试过的学习率数目不同（{low} 至 {high} 个）：试得少的吃亏。",
        "The methods have tried {low} to {high} learning rates: those with fewer are at a "
        "disadvantage.",
    ),
    "diverged": ("{names} 的训练发散了。", "Training of {names} diverged."),
}


@dataclass(frozen=True)
class DevLoss:
    """The lowest dev loss of a method, over the learning rates that have one."""

    method: str
    loss: float  # in nats a target token, mean over the tasks
    rate: float
    rates: int  # number of rates that were tried
    edge: Literal["lowest", "highest"] | None  # of several rates, if the best one is the outermost


@dataclass(frozen=True)
class DevVerdict:
    """What dev losses tell before there are scores: which method leads so far, no more.

    Loss is what training minimises, on the target's tokens; a score judges the answer. Methods may
    rank otherwise by score, and a loss has no interval here.
    """

    methods: tuple[DevLoss, ...]  # the lowest loss first
    diverged: tuple[str, ...]  # methods without a finite loss
    ahead: int | None  # number of tasks on which the first has the lowest loss; None if unknown
    tasks: int  # number of tasks with a loss of every method; 0 if unknown


def dev_verdict(
    losses: Mapping[str, Mapping[float, float | None]],
    by_task: Mapping[str, Mapping[str, float]] | None = None,
) -> DevVerdict:
    """Which method leads on dev loss.

    Args:
        losses: By method, then learning rate; None or not finite where training diverged.
        by_task: By method, then task, at the method's best rate.
    """
    finite: dict[str, dict[float, float]] = {
        method: {rate: one for rate, one in tried.items() if one is not None and one < math.inf}
        for method, tried in losses.items()
    }
    known = [_dev_loss(method, of, losses[method]) for method, of in finite.items() if of]
    known.sort(key=lambda one: one.loss)
    of_tasks = {one.method: (by_task or {}).get(one.method, {}) for one in known}
    shared = set.intersection(*map(set, of_tasks.values())) if of_tasks else set()
    ahead = sum(
        min(of_tasks, key=lambda method: of_tasks[method][task]) == known[0].method
        for task in shared
    )
    return DevVerdict(
        methods=tuple(known),
        diverged=tuple(method for method, of in finite.items() if losses[method] and not of),
        ahead=ahead if shared else None,
        tasks=len(shared),
    )


def _dev_loss(
    method: str, finite: Mapping[float, float], tried: Mapping[float, float | None]
) -> DevLoss:
    best = min(finite, key=finite.__getitem__)
    # A rate beside one that diverged is not at the edge: the edge has been found.
    edge: Literal["lowest", "highest"] | None = None
    if len(tried) > 1 and best in (min(tried), max(tried)):
        edge = "lowest" if best == min(tried) else "highest"
    return DevLoss(method, finite[best], best, len(tried), edge)


def dev_sentences(verdict: DevVerdict, language: Language) -> tuple[Sentence, ...]:
    """A verdict on dev losses in words."""
    words = Words(language, _TEXTS)
    return (
        Sentence("leader", _leader(words, verdict)),
        *(Sentence("warning", one) for one in _warnings(words, verdict)),
    )


def _leader(words: Words, found: DevVerdict) -> str:
    if not found.methods:
        return words("none")
    best, *others = found.methods
    evidence = [words("loss", loss=f"{best.loss:.3f}", rate=f"{best.rate:g}")]
    if others:
        evidence.append(words("next", other=others[0].method, loss=f"{others[0].loss:.3f}"))
    if others and found.ahead is not None:
        evidence.append(words("ahead", ahead=found.ahead, n=found.tasks))
    joined = words("semicolon").join(evidence)
    return words("leads" if others else "alone", best=best.method, evidence=joined)


def _warnings(words: Words, found: DevVerdict) -> list[str]:
    lines = [words("no_score")] if found.methods else []
    counts = [one.rates for one in found.methods]
    if counts and min(counts) < max(counts):
        lines.append(words("uneven", low=min(counts), high=max(counts)))
    for edge in ("lowest", "highest"):
        if names := [one.method for one in found.methods if one.edge == edge]:
            lines.append(words(edge, names=words.listed(names)))
    if found.diverged:
        lines.append(words("diverged", names=words.listed(found.diverged)))
    return lines
