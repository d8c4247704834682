"""A verdict in sentences, each with its evidence in parentheses."""

from __future__ import annotations

import math

from evals.figures.captions import points, size, title
from evals.leaderboard.verdict.findings import FEW_RECORDS, Choice, Pair, Sharing, Verdict
from evals.leaderboard.verdict.words import Sentence, Words
from evals.scoring.effect_sizes import OVERALL, Gain
from evals.scoring.power import POWER, Power
from evals.scoring.statistics import LEVEL, Estimate
from evals.tasks import Language


def sentences(verdict: Verdict, language: Language) -> tuple[Sentence, ...]:
    """A verdict in words: sharing, the best, ties, what to take, and what limits all that."""
    words = Words(language)
    sharing = verdict.sharing
    return (
        *([] if sharing is None else [Sentence("sharing", _sharing(words, sharing))]),
        Sentence("leader", _leader(words, verdict)),
        *(Sentence("tie", one) for one in _ties(words, verdict.pairs)),
        *(Sentence("choice", one) for one in _choices(words, verdict)),
        *(Sentence("warning", one) for one in _warnings(words, verdict)),
    )


def _sharing(words: Words, found: Sharing) -> str:
    tasks = [task for task in found.gains if task != OVERALL]
    evidence = _sharing_evidence(words, found, len(tasks))
    if len(tasks) == 1:
        outcome = "helped" if found.helped else "hurt" if found.hurt else "undecided"
        task = title(tasks[0], words.language)
        return words(f"sharing_1_{outcome}", task=task, evidence=evidence)
    open_tasks = len(found.undecided)
    if open_tasks == len(tasks):
        return words("all_undecided", n=len(tasks), evidence=evidence)
    return words(
        "sharing",
        n=len(tasks),
        helped=len(found.helped) or words("none"),
        hurt=len(found.hurt) or words("none"),
        undecided=words("undecided", n=open_tasks, be=_be(open_tasks)) if open_tasks else "",
        evidence=evidence,
    )


def _sharing_evidence(words: Words, found: Sharing, tasks: int) -> str:
    against = words(
        "best_against" if found.candidates > 1 else "against",
        method=found.method,
        reference=found.reference,
        n=found.candidates,
    )
    total = words(
        "mean_gain" if tasks > 1 else "task_gain", gain=_gain(words, found.gains[OVERALL])
    )
    lists = [
        words(
            key,
            tasks=words.counted(
                f"{title(task, words.language)} {_bracketed(found.gains[task])}" for task in of
            ),
        )
        for key, of in (("helps", found.helped), ("hurts", found.hurt))
        if of and tasks > 1
    ]
    return words("semicolon").join([against + total, *lists])


def _leader(words: Words, found: Verdict) -> str:
    if found.best is None:
        return words("none_scored")
    values = {"best": found.entries[0], "score": _score(words, found.best)}
    if len(found.entries) == 1:
        return words("alone", **values)
    values["mean"] = words("mean", n=len(found.tasks))
    if len(found.tasks) == 1:
        values["mean"] = words("task_score", task=title(found.tasks[0], words.language))
    if found.nearest is None:
        return words("leads", **values)
    lead = _gain(words, found.nearest.gain)
    return words("surely_leads", **values, other=found.nearest.other, gain=lead)


def _ties(words: Words, pairs: tuple[Pair, ...]) -> list[str]:
    if not pairs:
        return []
    first, *others = pairs
    gain = _gain(words, first.gain)
    tie = words(
        "tie", best=first.best, other=first.other, gain=gain, power=_power(words, first.power)
    )
    if not others:
        return [tie]
    return [
        tie,
        words(
            "others",
            best=first.best,
            n=len(others),
            methods="method" if len(others) == 1 else "methods",
            gains=words.counted(f"{one.other} {_bracketed(one.gain.reversed())}" for one in others),
        ),
    ]


def _power(words: Words, found: Power | None) -> str:
    if found is None:
        return words("unknown_records")
    values = {"points": _amount(words, found.difference), "power": f"{POWER:.0%}"}
    if not found.more:
        return words("enough_records", **values)
    more = _rounded_up(found.more)
    records = "record" if more == 1 else "records"
    return words("more_records", n=f"{more:,}", records=records, **values)


def _choices(words: Words, found: Verdict) -> list[str]:
    if len(found.entries) < 2 or not found.choices:
        return []
    last = found.choices[-1]
    # A tie told already needs no evidence twice.
    told = {found.pairs[0].best, found.pairs[0].other} if found.pairs else set()
    if found.budget is None:
        return [_choice(words, one, told) for one in reversed(found.choices)]
    if found.within is last and (last.rival_parameters or 0) <= found.budget:
        return [_choice(words, last, told)]
    budget = _size(words, found.budget)
    if found.within is None:
        least = found.choices[0]
        size_of_least = words("parameters", size=_size(words, least.parameters))
        first = words("nothing_within", budget=budget, name=least.name, evidence=size_of_least)
    else:
        first = _choice(words, found.within, told, words("at_most", size=budget))
    return [first] if found.within is last else [first, _choice(words, last, told)]


def _choice(words: Words, one: Choice, told: set[str], limit: str = "") -> str:
    reason = "within budget" if limit else one.reason
    own, other = (_size(words, of or 0) for of in (one.parameters, one.rival_parameters))
    size_of = words("parameters", size=own)
    gain = "" if one.gain is None else _gain(words, one.gain)
    if one.limit is not None and not limit:
        limit = words("below", size=_size(words, one.limit))
    evidence = [size_of] if one.parameters else []
    if reason == "not surely worse":
        evidence = [words("instead", size=own, rival=one.rival, rival_size=other)]
    if gain and not (evidence and {one.name, one.rival} == told):
        evidence.append(words("over_rival", rival=one.rival, gain=gain))
    return words(
        reason,
        name=one.name,
        rival=one.rival,
        size=size_of,
        gain=gain,
        limit=limit,
        evidence=words("semicolon").join(evidence),
    )


def _warnings(words: Words, found: Verdict) -> list[str]:
    lines = []
    first = found.nearest or (found.pairs[0] if found.pairs else None)
    if first and first.training_error and (found.pairs or first.is_within_training_noise):
        error = points(first.training_error)
        lines.append(words("training_noise", best=first.best, other=first.other, error=error))
    if found.sharing and found.sharing.within_training_noise:
        noisy = (title(task, words.language) for task in found.sharing.within_training_noise)
        lines.append(words("noisy_tasks", tasks=words.listed(noisy)))
    lines += _seeds(words, found)
    if found.few_records:
        few = (f"{title(task, words.language)} ({n})" for task, n in found.few_records.items())
        lines.append(words("few_records", n=FEW_RECORDS, tasks=words.listed(few)))
    if found.backbones:
        lines.append(words("backbones", names=words.listed(found.backbones)))
    return lines


def _seeds(words: Words, found: Verdict) -> list[str]:
    if found.seeds is None:
        return []
    low, high = found.seeds
    if high == 1:
        return [words("one_seed")]
    if low == 1:
        be = _be(len(found.single_seed), past=True)
        return [words("some_one_seed", names=words.listed(found.single_seed), be=be)]
    return [words("uneven_seeds", low=low, high=high)] if low < high else []


# Numbers ----------------------------------------------------------------------------------


def _score(words: Words, of: Estimate) -> str:
    return words("score", value=points(of.value), interval=_interval(words, of))


def _gain(words: Words, of: Gain) -> str:
    key = "p" if of.adjusted == of.p_value else "adjusted"
    return words(
        "gain",
        value=points(of.value, signed=True),
        interval=_interval(words, of),
        p=words(key, p=f"{of.adjusted:.2g}"),
    )


def _interval(words: Words, of: Estimate | Gain) -> str:
    signed = isinstance(of, Gain)
    low, high = points(of.low, signed), points(of.high, signed)
    return words("interval", level=f"{LEVEL:.0%}", low=low, high=high)


def _bracketed(of: Gain) -> str:
    value, low, high = (points(one, signed=True) for one in (of.value, of.low, of.high))
    return f"{value} [{low}, {high}]"


def _size(words: Words, parameters: int) -> str:
    return size("parameters", parameters, words.language)


def _amount(words: Words, difference: float) -> str:
    n = f"{100 * difference:.2g}" if difference < 0.1 else f"{100 * difference:.0f}"
    return words("point" if n == "1" else "points", n=n)


def _rounded_up(count: int) -> int:
    """With two digits that count: more would be false precision."""
    unit = int(10 ** max(0, math.floor(math.log10(count)) - 1))
    return -(-count // unit) * unit


def _be(count: int, *, past: bool = False) -> str:
    return (("was", "were") if past else ("is", "are"))[count != 1]
