"""Asks an engine everything and prints what it says; as the app does on ZeroGPU, or not."""

import json
import os
import sys
import threading
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.ui.test_app import ask, pieces
from ui.engine.client import EngineError, Wait
from ui.engine.engine import AppEngine
from ui.engine.models import Models, loader
from ui.engine.questions import BARE
from ui.engine.settings import Settings
from ui.tabs.gates.what_if import WhatIf

TASKS = ("SentimentAnalyze", "Couplet")
PROMPT = "灯光柔和，令人舒适"


def replies(engine: AppEngine) -> dict[str, Any]:
    """What it says to one question of each kind."""
    question = ("one", TASKS[1], PROMPT, 12)
    beside = ("two", BARE)
    texts = ["", "", ""]
    for piece in pieces(engine, *question, beside=beside):
        texts[piece.index] += piece.text
    labels = [
        engine.label_probabilities(engine.request(name, TASKS[0], PROMPT, 1), ["积极", "消极"])
        for name in ("one", BARE)
    ]
    *_, outcome = WhatIf(engine).compare("one", TASKS[0], PROMPT, [0.0], keep_sum=True)
    assert outcome.changed
    assert outcome.effects
    with closing(ask(engine, *question, beside=beside)) as asked:  # cancelled halfway
        first = next(piece.text for piece in asked if not isinstance(piece, Wait))
    refusals = []
    for asked in (
        ("nobody", TASKS[0], PROMPT, 1),
        ("one", "nothing", PROMPT, 1),
        ("one", TASKS[0], " ", 1),
        ("one", TASKS[0], "x" * 6001, 1),
    ):
        try:
            list(ask(engine, *asked))
        except (EngineError, ValueError) as error:
            refusals.append([type(error).__name__, str(error)])
    return {
        "texts": texts,
        "labels": labels,
        "sides": [[side.text, side.labels] for side in (outcome.original, outcome.changed)],
        "effects": outcome.effects.weights.tolist(),
        "gates": engine.gates("one", TASKS[0]).weights.tolist(),
        "first": first,
        "refusals": refusals,
    }


def main(adapters: str, backbone: str) -> None:
    """Serve the page as a Space does, and ask on another thread, as Gradio does."""
    import spaces  # type: ignore[import-not-found] # the stand-in

    from app import launch

    engine = AppEngine(Path(adapters), Models(loader(backbone)))
    said: dict[str, Any] = {}
    with TemporaryDirectory() as runs:
        page = launch(engine, Settings(runs=Path(runs), jobs_allowed=False), quiet=True)
        asking = threading.Thread(target=lambda: said.update(replies(engine)))
        asking.start()
        asking.join()
        page.close()
    there = [os.getpid() == process for _, process in spaces.calls]
    calls = [name for name, _ in spaces.calls]
    print(json.dumps({**said, "refreshed": engine.refresh(), "calls": calls, "here": any(there)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
