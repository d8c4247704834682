"""Four tasks of which two and two agree, and a measurement of their affinities."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np

from cgclora.adapter import Adapter
from cgclora.analysis.affinity import measure
from cgclora.analysis.affinity_settings import AffinitySettings
from cgclora.config import AdapterConfig
from cgclora.data.records import Record
from tests.helpers.tiny import make_backbone

TASKS = ("sun", "moon", "day", "night")
RULES = {"sun": ("好", "Is"), "day": ("好", "Is"), "moon": ("Is", "好"), "night": ("Is", "好")}
"""What a task answers to an "a" and to a "b": two say one thing, two the contrary."""

CONFIG = AdapterConfig.lora(TASKS, 4)
SETTINGS = AffinitySettings(
    measurements=4,
    every=3,
    records=4,
    loss_records=4,
    tokens=0,
    lookahead_every=2,
    learning_rate=3e-3,
)


def records(per_task: int, seed: int = 0) -> list[Record]:
    generator = random.Random(seed)
    made = []
    for index in range(per_task * len(TASKS)):
        task = TASKS[index % len(TASKS)]
        kind = generator.randrange(2)
        prompt = "ab"[kind] * generator.randint(2, 9)
        made.append(Record(f"{seed}-{index}", task, prompt, RULES[task][kind]))
    return made


def run(
    folder: Path, config: AdapterConfig = CONFIG, data: list[Record] | None = None, **changes: Any
) -> dict[str, Any]:
    stop = changes.pop("stop", None)
    backbone = make_backbone()
    return measure(
        Adapter.attach(backbone, config),
        backbone.tokenizer,
        data or records(30),
        dataclasses.replace(SETTINGS, **changes),
        folder,
        progress=lambda _: None,
        stop=stop,
    )


def means(result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(result["first_order"]["mean"]), np.array(result["lookahead"]["mean"])
