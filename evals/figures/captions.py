"""The words in the charts of a board, in Chinese and English, and how a number is written."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping

from evals.leaderboard.entries import Entry
from evals.scoring.effect_sizes import OVERALL, Gain
from evals.scoring.statistics import LEVEL, Estimate
from evals.tasks import TASKS, Language, Task

TEXTS: Mapping[str, tuple[str, str]] = {
    "score": ("得分 {value}，{interval}", "Score {value}, {interval}"),
    "score_axis": ("得分 × 100，{level} 区间", "Score × 100, {level} interval"),
    "interval": ("{level} 区间 {low} 至 {high}", "{level} interval {low} to {high}"),
    "overall": ("各任务平均", "Mean of tasks"),
    "rank": ("第 {rank} 名", "rank {rank}"),
    "records": ("{n} 条样本", "{n} records"),
    "no_seed": ("未经训练", "not trained"),
    "seeds": ("随机种子 {seeds}", "seeds {seeds}"),
    "parameters": ("训练的参数", "Trained parameters"),
    "total_rank": ("总秩", "Total rank"),
    "active_rank": ("单个任务所用的秩", "Rank that one task uses"),
    "training_seconds": ("训练时间", "Training time"),
    "peak_memory": ("峰值内存", "Peak memory"),
    "tokens_per_second": ("速度（词元/秒）", "Speed in tokens/s"),
    "forgetting": ("遗忘（奈特/词元）", "Forgetting in nats a token"),
    "forgetting_axis": (
        "遗忘：奈特/词元，{level} 区间，越低越好",
        "Forgetting in nats a token, {level} interval; lower is better",
    ),
    "frontier": ("最优前沿", "Frontier"),
    "gain": ("比 {reference} {gain} 分，{interval}", "{gain} against {reference}, {interval}"),
    "gain_axis": (
        "与 {reference} 之差，{level} 区间",
        "Difference to {reference}, {level} interval",
    ),
    "hollow": ("空心：可能只是偶然", "hollow: may be chance"),
    "p_value": ("校正后 p = {p}", "adjusted p = {p}"),
    "loses": ("◂ 为共享付出代价", "◂ pays for sharing"),
    "wins": ("因共享而受益 ▸", "gains by sharing ▸"),
    "item_noise": ("样本噪声：{level} 区间", "Items: {level} interval"),
    "training_noise": (
        "训练噪声：各种子的最低、平均、最高",
        "Training: lowest, mean, highest seed",
    ),
    "one_seed": ("一个种子：训练噪声未测", "One seed: training noise not measured"),
    "spread": (
        "{n} 个种子：{low} 至 {high}，标准差 {sd}",
        "{n} seeds: {low} to {high}, standard deviation {sd}",
    ),
    "bold": ("粗体：最好，或未能确定不如最好", "bold: the best, or not surely worse"),
    "won_axis": (
        "行优于列的概率（%）<br>下：确实胜过的任务数（共 {n} 个）",
        "P(row better), %<br>below: sure wins of {n} tasks",
    ),
    "probability": ("{share} 的重采样中平均分更高", "higher mean in {share} of the resamples"),
    "won": ("{won} / {tasks} 个任务确实胜过 {other}", "wins {won} of {tasks} tasks from {other}"),
    "ahead": ("{ahead} / {tasks} 个任务得分更高", "scores higher on {ahead} of {tasks}"),
    "second": ("{n} 秒", "{n} s"),
    "minute": ("{n} 分钟", "{n} min"),
    "hour": ("{n} 小时", "{n} h"),
}
"""Chinese and English; `{level}` is the level of all intervals."""


_SIZES = (
    *("parameters", "total_rank", "active_rank", "training_seconds"),
    *("peak_memory", "tokens_per_second"),
)

Interval = Estimate | Gain
"""A score or a difference, with its interval."""


def text(key: str, language: Language, **values: object) -> str:
    """Words of `TEXTS`, with `values` and the intervals' level filled in."""
    return TEXTS[key][language == "en"].format(level=f"{LEVEL:.0%}", **values)


def title(task: str | Task, language: Language) -> str:
    """The title of a task or of the mean over the tasks; the name of an unregistered task."""
    if task == OVERALL:
        return text("overall", language)
    known = task if isinstance(task, Task) else TASKS.get(task)
    if known is None:
        return str(task)
    return known.title_zh if language == "zh" else known.title_en


def wrapped(name: str, width: int) -> str:
    """A name in lines of at most `width` letters; a Chinese character counts two.

    Latin text breaks at spaces only, Chinese anywhere, into lines of equal length.
    """
    if not name.isascii() and " " not in name:
        lines = math.ceil(2 * len(name) / width)
        width = math.ceil(len(name) / lines)
    return "<br>".join(textwrap.wrap(name, width, break_long_words=not name.isascii())) or name


def titles(language: Language, width: int = 20) -> Callable[[str], str]:
    """A function from a task to its title in lines of at most `width` letters."""
    return lambda task: wrapped(title(task, language), width)


def method_name(name: str) -> str:
    """An entry's name in lines that leave room for the plot on a phone."""
    return wrapped(name, 24)


def points(value: float, signed: bool = False) -> str:
    """A score or a difference in [-1, 1], times 100, with one decimal."""
    shown = round(100 * value, 1) + 0.0  # no -0.0
    return f"{shown:+.1f}" if signed else f"{shown:.1f}"


def percent(probability: float) -> str:
    """A probability in percent, without the sign; one near 0 or 1 is never written as certain."""
    if probability < 0.005:
        return "<1"
    return ">99" if probability > 0.995 else f"{100 * probability:.0f}"


def estimate_of(entry: Entry, row: str) -> Estimate:
    """The entry's score on a task, or the mean over the tasks for `OVERALL`."""
    return entry.overall if row == OVERALL else entry.scores[row].estimate


def hover(entry: Entry, language: Language, *lines: str, task: str = OVERALL) -> str:
    """Details of an entry on a task or on the mean, line by line."""
    where = text("rank", language, rank=entry.rank) if task == OVERALL else title(task, language)
    return "<br>".join([f"<b>{entry.name}</b> · {where}", *lines])


def score_hover(entry: Entry, row: str, language: Language) -> str:
    """Details of an entry's score on a task or on the mean."""
    return hover(entry, language, *estimate_lines(entry, language, row), task=row)


def estimate_lines(entry: Entry, language: Language, row: str = OVERALL) -> list[str]:
    """A score with its interval; the number of records and the training seeds."""
    of = estimate_of(entry, row)
    seeds = ", ".join(str(seed) for seed in entry.seeds if seed is not None)
    trained = text("seeds", language, seeds=seeds) if seeds else text("no_seed", language)
    return [
        text("score", language, value=points(of.value), interval=_interval(of, language)),
        f"{text('records', language, n=f'{of.samples:,}')} · {trained}",
    ]


def gain_lines(of: Gain, reference: str, language: Language) -> list[str]:
    """A difference with its interval and p-value."""
    gain, interval = points(of.value, signed=True), _interval(of, language, signed=True)
    return [
        text("gain", language, reference=reference, gain=gain, interval=interval),
        f"{text('p_value', language, p=f'{of.adjusted:.2g}')} · "
        f"{text('records', language, n=f'{of.samples:,}')}",
    ]


def training_lines(entry: Entry, language: Language) -> list[str]:
    """The spread over the training seeds; nothing for an entry that was not trained."""
    if all(seed is None for seed in entry.seeds):
        return []
    spread = entry.spread
    if spread.seeds < 2:
        return [text("one_seed", language)]
    low, high, deviation = map(points, (spread.low, spread.high, spread.standard_deviation))
    return [text("spread", language, n=spread.seeds, low=low, high=high, sd=deviation)]


def size_lines(entry: Entry, language: Language) -> list[str]:
    """The known costs of the entry, its speed, and what it forgets."""
    lines = [
        f"{text(quantity, language)}: {size(quantity, cost, language)}"
        for quantity in _SIZES
        if (cost := getattr(entry, quantity)) is not None
    ]
    if one := entry.forgetting:
        interval = text("interval", language, low=f"{one.low:+.3f}", high=f"{one.high:+.3f}")
        lines.append(f"{text('forgetting', language)}: {one.value:+.3f}, {interval}")
    return lines


def _interval(of: Interval, language: Language, signed: bool = False) -> str:
    low, high = points(of.low, signed), points(of.high, signed)
    return text("interval", language, low=low, high=high)


def size(quantity: str, value: float, language: Language) -> str:
    """A short text for a number of parameters, a rank, a time, a memory or a speed.

    Args:
        quantity: One of `_SIZES`.
        value: The number; of a time in seconds, of a memory in bytes.
        language: Of the units.
    """
    if quantity == "training_seconds":
        for unit, seconds in (("hour", 3600), ("minute", 60)):
            if value >= seconds:
                return text(unit, language, n=f"{value / seconds:.3g}")
        return text("second", language, n=f"{value:.3g}")
    if quantity == "peak_memory":
        return f"{value / 1e9:.3g} GB"
    if quantity == "parameters":
        for letter, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
            if value >= factor:
                return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"
