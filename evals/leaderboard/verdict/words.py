"""The words of a verdict in Chinese and English."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evals.tasks import Language

SHOWN = 3
"""Tasks or methods that a sentence names with their numbers; it counts the others."""

Kind = Literal["sharing", "leader", "tie", "choice", "warning"]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a verdict."""

    kind: Kind  # `warning`: what limits the other sentences
    text: str


TEXTS: Mapping[str, tuple[str, str]] = {
    "and": ("、", ", "),
    "last_and": ("和", " and "),
    "semicolon": ("；", "; "),
    "none": ("0", "none"),
    "more": ("{names} 等 {total} 个", "{names} and {n} more"),
    "points": ("{n} 分", "{n} points"),
    "point": ("{n} 分", "{n} point"),
    # Evidence.
    "interval": ("{level} 区间 [{low}, {high}]", "{level} interval [{low}, {high}]"),
    "score": ("{value} 分，{interval}", "{value} points, {interval}"),
    "gain": ("{value} 分，{interval}，{p}", "{value} points, {interval}, {p}"),
    "p": ("p = {p}", "p = {p}"),
    "adjusted": ("校正后 p = {p}", "adjusted p = {p}"),
    "parameters": ("参数 {size}", "{size} parameters"),
    "instead": (
        "参数 {size}，{rival} 为 {rival_size}",
        "{size} instead of {rival_size} parameters",
    ),
    "over_rival": ("与 {rival} 相比 {gain}", "against {rival}, {gain}"),
    # Sharing.
    "sharing": (
        "{n} 个任务中，共享使 {helped} 个受益、{hurt} 个受损{undecided}（{evidence}）。",
        "Sharing helps {helped} of {n} tasks and hurts {hurt}{undecided} ({evidence}).",
    ),
    "undecided": ("，{n} 个不能确定", "; {n} {be} undecided"),
    "all_undecided": (
        "共享对 {n} 个任务有益还是有害，都不能确定（{evidence}）。",
        "Whether sharing helps or hurts is undecided on each of {n} tasks ({evidence}).",
    ),
    "sharing_1_helped": (
        "共享使“{task}”受益（{evidence}）。",
        "Sharing helps {task} ({evidence}).",
    ),
    "sharing_1_hurt": ("共享使“{task}”受损（{evidence}）。", "Sharing hurts {task} ({evidence})."),
    "sharing_1_undecided": (
        "共享对“{task}”有益还是有害，不能确定（{evidence}）。",
        "Whether sharing helps or hurts {task} is undecided ({evidence}).",
    ),
    "against": ("{method} 与 {reference} 相比", "{method} against {reference}"),
    "best_against": (
        "{n} 种共享方法中最好的 {method} 与 {reference} 相比",
        "{method}, the best of {n} that share, against {reference}",
    ),
    "mean_gain": ("：平均 {gain}", ": mean {gain}"),
    "task_gain": ("：{gain}", ": {gain}"),
    "helps": ("受益：{tasks}", "helps {tasks}"),
    "hurts": ("受损：{tasks}", "hurts {tasks}"),
    # The best and those near it.
    "none_scored": ("还没有方法得到评分。", "No method has a score yet."),
    "alone": (
        "只有 {best} 一个方法（{score}），无从比较。",
        "{best} is the only method ({score}), so there is nothing to compare.",
    ),
    "leads": (
        "{best} 的{mean}最高（{score}）。",
        "{best} has the highest {mean} ({score}).",
    ),
    "surely_leads": (
        "{best} 的{mean}确实高于其他所有方法（{score}；比第二名 {other} {gain}）。",
        "{best} surely has the highest {mean} ({score}; over {other}, the next, {gain}).",
    ),
    "mean": ("平均分（{n} 个任务）", "mean over {n} tasks"),
    "task_score": ("“{task}”得分", "score on {task}"),
    "tie": (
        "{best} 与 {other} 分不出高下（{gain}）：{power}。",
        "{best} and {other} cannot be told apart ({gain}): {power}.",
    ),
    "more_records": (
        "每个任务再加约 {n} 条测试样本，才能分辨 {points}的差距（检验功效 {power}）",
        "about {n} more test {records} a task would tell a difference of {points} ({power} power)",
    ),
    "enough_records": (
        "现有的测试样本足以分辨 {points}的差距（检验功效 {power}），两者的差距多半更小",
        "these test records would tell a difference of {points} ({power} power), so theirs is "
        "probably smaller",
    ),
    "unknown_records": (
        "现有的测试样本看不出还需要多少",
        "these test records do not show how many more would tell",
    ),
    "others": (
        "按 Holm 法校正后，{best} 与另外 {n} 个方法也分不出高下（{gains}）。",
        "By Holm's rule {best} cannot be told from {n} other {methods} either ({gains}).",
    ),
    # Choices.
    "smallest": (
        "建议选 {name}：平均分最高，也没有参数明显更少的方法（{evidence}）。",
        "Take {name}: it scores highest, and no method is clearly smaller ({evidence}).",
    ),
    "surely better": (
        "建议选 {name}（{size}）：参数明显更少的方法确实都更差"
        "（与其中最好的 {rival} 相比 {gain}）。",
        "Take {name} ({size}): every clearly smaller method is surely worse (against {rival}, the "
        "best of them, {gain}).",
    ),
    "not surely worse": (
        "想省参数可选 {name}：在未必不如最高分 {rival} 的方法中，它的参数最少（{evidence}）。",
        "To save parameters take {name}: it is the smallest method that is not surely worse than "
        "{rival}, the best ({evidence}).",
    ),
    "untrained": (
        "没有方法确实好过不训练的 {name}，得分最高的是 {rival}（{evidence}）。",
        "No method is surely better than {name}, which trains nothing; the best is {rival} "
        "({evidence}).",
    ),
    "within budget": (
        "参数{limit}时选 {name}（{evidence}）。",
        "With {limit} parameters take {name} ({evidence}).",
    ),
    "below": ("少于 {size} ", "fewer than {size}"),
    "at_most": ("不超过 {size} ", "at most {size}"),
    "nothing_within": (
        "没有值得选的方法参数不超过 {budget}：最小的是 {name}（{evidence}）。",
        "No method worth taking has at most {budget} parameters: the smallest is {name} "
        "({evidence}).",
    ),
    # Limits.
    "one_seed": (
        "每个方法只训练了一次：换一个种子得分会变多少还不知道，区间里也没有算进去。",
        "Each method was trained once: how much a score changes with the seed is unknown, and the "
        "intervals leave it out.",
    ),
    "some_one_seed": (
        "{names} 只训练了一次：换一个种子得分会变多少还不知道。",
        "{names} {be} trained once: how much the score changes with the seed is unknown.",
    ),
    "uneven_seeds": (
        "各方法的种子数不同（{low} 至 {high} 个）：种子少的平均分更不稳。",
        "The methods have {low} to {high} seeds: a mean over fewer is less stable.",
    ),
    "training_noise": (
        "{best} 与 {other} 的差距还受训练噪声影响（标准误 {error} 分）：要多训练几个种子，"
        "加测试样本没有用。",
        "Training adds noise to the difference of {best} and {other} (standard error {error} "
        "points), which more seeds reduce and more test records do not.",
    ),
    "noisy_tasks": (
        "在{tasks}上，差距没有超出训练噪声（种子间标准误的两倍）：换一批种子，结论可能不同。",
        "The difference on {tasks} is within training noise (two standard errors over the seeds): "
        "other seeds may tell otherwise.",
    ),
    "few_records": (
        "{tasks} 的测试样本不足 {n} 条：得分只是粗略的估计。",
        "Fewer than {n} test records on {tasks}: such scores are rough.",
    ),
    "backbones": (
        "各方法的基座不同（{names}）：差距可能来自基座。",
        "The backbones differ ({names}): a difference may be theirs.",
    ),
}
"""Chinese and English."""


@dataclass(frozen=True)
class Words:
    """Texts in one language."""

    language: Language
    texts: Mapping[str, tuple[str, str]] = field(default_factory=lambda: TEXTS)

    def __call__(self, key: str, **values: object) -> str:
        """The text of this key with `values` filled in."""
        return self.texts[key][self.language == "en"].format(**values)

    def listed(self, items: Iterable[str]) -> str:
        """Names in a list, such as `a, b and c`."""
        *first, last = items
        return self("last_and").join(filter(None, [self("and").join(first), last]))

    def counted(self, items: Iterable[str]) -> str:
        """The first `SHOWN` of some names with numbers, and how many there are beyond them."""
        names = [*items]
        shown, beyond = self("and").join(names[:SHOWN]), len(names) - SHOWN
        return self("more", names=shown, n=beyond, total=len(names)) if beyond > 0 else shown
