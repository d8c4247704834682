"""How often a router finds the task and the cluster of prompts whose task is known."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cgclora.analysis.intervals import wilson_interval
from cgclora.data.records import DataError, Record, data_hash
from cgclora.inference.router import SURE, JoinedRouter, TaskRouter

Flags = npt.NDArray[np.bool_]


def check(routers: Mapping[str, TaskRouter], records: Sequence[Record]) -> dict[str, Any]:
    """Route the prompts of records among the tasks of all clusters.

    Records of tasks that no cluster has are counted apart: a router should be unsure of them.

    Returns:
        `data`, the hash of the records; how often `task` and `cluster` are right, with 95 %
        intervals (Wilson); how often the router is `sure`, giving the likeliest task a probability
        of `SURE` or more, and how often it is right then; counts for each of the `tasks`;
        `confusions`, the wrong tasks; `other tasks`, how often a prompt of no task here was surely
        given one.

    Raises:
        DataError: There is no record.
        ConfigError: There is no router.
    """
    if not records:
        raise DataError("there is no record to check the router with: give some.")
    joined = JoinedRouter(routers)
    best = joined.most_likely(record.prompt for record in records)
    routed = [(one.cluster, one.task) for one in best]
    sure: Flags = np.array([one.probability >= SURE for one in best])
    covered = set(joined.tasks)
    task = np.array([record.task for record in records])
    ours = np.isin(task, [name for _, name in covered])
    right = np.array([name for _, name in routed]) == task
    cluster = np.array(
        [(name, record.task) in covered for (name, _), record in zip(routed, records, strict=True)]
    )
    return {
        "clusters": {name: list(router.tasks) for name, router in routers.items()},
        "data": data_hash(records),
        "task": _share("right", right[ours]),
        "cluster": _share("right", cluster[ours]),
        "sure": {"from": SURE, **_share("sure", sure[ours])},
        "task when sure": _share("right", right[ours & sure]),
        "tasks": {
            str(name): {
                "records": int((task == name).sum()),
                "right": int(right[task == name].sum()),
                "sure": int(sure[task == name].sum()),
            }
            for name in np.unique(task[ours])
        },
        "confusions": _confusions(ours & ~right, task, routed),
        "other tasks": {
            **_share("sure", sure[~ours]),
            "taken as": _confusions(~ours & sure, task, routed),
        },
    }


def _confusions(
    chosen: Flags, task: npt.NDArray[np.str_], routed: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What the chosen records' tasks were taken as, the commonest first."""
    counts = Counter((str(task[at]), *routed[int(at)]) for at in np.flatnonzero(chosen))
    return [
        {"task": name, "as": as_task, "of": cluster, "records": number}
        for (name, cluster, as_task), number in counts.most_common()
    ]


def _share(name: str, flags: Flags) -> dict[str, Any]:
    """How many of how many, and their share with its interval, where there are any."""
    count, total = int(flags.sum()), len(flags)
    if not total:
        return {"records": 0}
    low, high = wilson_interval(count, total)
    return {
        "records": total,
        name: count,
        "share": round(count / total, 4),
        "interval": [round(low, 4), round(high, 4)],
    }
