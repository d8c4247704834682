"""A Markdown page on measured inter-task affinities: heat map, tables and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.figures.affinity import heat_map

RESULT, PICTURE, PAGE = "affinity.json", "affinity.svg", "README.md"

FORMS = {"first_order": "First order", "lookahead": "Lookahead"}


def files_of(result: Mapping[str, Any], groups: int = 0) -> dict[str, str]:
    """The heat map and the page by file name.

    Args:
        result: Of `cgclora affinity`, with its `grouping`.
        groups: The number of groups that order the heat map; 0 takes the suggested one.

    Raises:
        ValueError: There is no grouping into so many.
    """
    return {PICTURE: heat_map(result, groups=groups), PAGE: page(result)}


def page(result: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    grouping = result["grouping"]
    forms = [form for form in FORMS if grouping[form] is not None]
    unit = grouping["unit"]
    parts = ["# Which tasks help one another", _measured(result), f"![heat map]({PICTURE})"]
    parts += ["## How many groups", _reading(grouping["first_order"], unit)]
    for form in forms:
        parts += [f"{FORMS[form]} form:", _table(grouping[form], unit)]
    parts.append(_certainty(grouping))
    parts += ["## The groups", *(_groups(grouping[form], FORMS[form]) for form in forms)]
    return "\n\n".join(parts) + "\n"


def _measured(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    taken = {form: sum(form in one for one in result["measurements"]) for form in FORMS}
    losses = [sum(one["losses"]) / len(one["losses"]) for one in result["measurements"]]
    last = result["origins"][-1]["hardware"]
    rate = settings["step_rate"]
    step = "is its share of a joint step" if rate is None else f"has the learning rate {rate:g}"
    return (
        f"Affinity of {len(result['tasks'])} tasks (TAG, arXiv 2109.04617): the share of one "
        "task's loss that a training step on another takes away, losses summed over the "
        "measurements. "
        f"`python -m cgclora affinity` trained one plain LoRA of rank "
        f"{result['adapter']['common'] * result['adapter']['expert_rank']} on all tasks for "
        f"{result['measurements'][-1]['step']} steps of {settings['batch_size']} records "
        f"(learning rate {settings['learning_rate']:g}), and every {settings['every']} steps took "
        f"each task's gradient on about {settings['tokens']} tokens of records (at least "
        f"{settings['records']} records) and its loss on as many of others (at least "
        f"{settings['loss_records']}), none longer than {settings['max_length']} tokens: "
        f"{taken['first_order']} times in the first-order form, {taken['lookahead']} times in the "
        f"lookahead form, {result['seconds'] / 60:.0f} minutes in all "
        f"({last.get('gpu', last['machine'])}, {last['dtype']}). A task's step {step} "
        f"({settings['step']}). The tasks' mean loss fell from {losses[0]:.2f} to "
        f"{losses[-1]:.2f} nats meanwhile, so this is how tasks help one another early on."
    )


def _reading(grouped: Mapping[str, Any], unit: str) -> str:
    text = (
        "Gain: how much more of a task's loss the other tasks of its group take away in a step "
        "than all other tasks do, mean over tasks. It is larger than it "
        "will be for groups that were chosen by it, so held out: each measurement scored with the "
        "groups that the others give. Stability: mean adjusted Rand index with the groups of "
        "bootstrapped measurements. "
        f"With all in one group the mean affinity is {_percent(grouped['one_group'], unit)}."
    )
    if unit == "task":
        text += (
            " All in units of a task's usual affinity (100 % is the root mean square of those onto "
            "it), so that tasks with short answers, which lose much of their loss in a step, have "
            "no more say than others."
        )
    if grouped["prior"] is not None:
        names = " / ".join(grouped["prior"]["groups"])
        text += f" Prior: {names}, which nothing here was chosen by."
    return text


def _table(grouped: Mapping[str, Any], unit: str) -> str:
    rows = [("groups", "gain", "held out", "stability", "adjusted Rand index with the prior")]
    for one in grouped["groupings"]:
        suggested = " (suggested)" if one["asked"] == grouped["suggested"] else ""
        gain = _with_error(one["gain"], one["standard_error"], unit)
        held_out = _with_error(one["held_out_gain"], one["held_out_standard_error"], unit)
        numbers = _number(one["stability"]), _number(one["prior_ari"])
        rows.append((f"{one['asked']}{suggested}", gain, held_out, *numbers))
    if grouped["prior"] is not None:
        gain = _with_error(grouped["prior"]["gain"], grouped["prior"]["standard_error"], unit)
        rows.append(("prior", gain, gain, "", "1.00"))
    return markdown(rows)


def _certainty(grouping: Mapping[str, Any]) -> str:
    lines = [
        f"{FORMS[form]}: rank correlation of every other measurement's mean with the rest's "
        f"{_number(grouping[form]['split_half'])}."
        for form in FORMS
        if grouping[form] is not None and grouping[form]["split_half"] is not None
    ]
    if grouping["agreement"] is not None:
        lines.append(
            "Of the two forms, over pairs of tasks and the measurements that have both: "
            f"{_number(grouping['agreement'])}."
        )
    return " ".join(lines)


def _groups(grouped: Mapping[str, Any], form: str) -> str:
    rows = [(f"{form.lower()}", "groups")]
    for one in grouped["groupings"]:
        if one["asked"] > 1:
            groups = "<br>".join(", ".join(group) for group in one["groups"])
            rows.append((str(one["asked"]), groups))
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; the first row is the header."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _with_error(value: float | None, error: float | None, unit: str) -> str:
    if value is None:
        return ""
    return _percent(value, unit) + ("" if error is None else f" ± {100 * error:.{_digits(unit)}f}")


def _percent(value: float, unit: str) -> str:
    return f"{100 * value:+.{_digits(unit)}f} %"


def _digits(unit: str) -> int:
    """Steps lower a loss by thousandths, or by about the task's usual affinity."""
    return 0 if unit == "task" else 3


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
