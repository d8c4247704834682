"""Calls as `run` makes them: the named endpoints, the page's own events, bare HTTP."""

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.suites.fuzz import http
from tests.suites.fuzz.http import API, AS_JSON, Call, Page, as_json
from tests.suites.fuzz.values import any_value, few, text

TASKS = ("NER", "SentimentAnalyze", "Couplet")
"""Of the adapter that is served."""


def call(chance: random.Random, page: Page, marker: str) -> Call:
    """A random call.

    Args:
        chance: Decides.
        page: Whose private events are called, too.
        marker: A text of whoever calls, to be found again where it does not belong.
    """
    kinds: tuple[tuple[Callable[..., Call], float], ...] = (
        (_endpoint, 30),
        (_private, 45),
        (http.protocol, 10),
        (http.file, 5),
        (http.upload, 4),
        (http.bare, 6),
    )
    makers, weights = zip(*kinds, strict=True)
    (make,) = chance.choices(makers, weights)
    return make(chance, page, marker)


def _endpoint(chance: random.Random, _: Page, marker: str) -> Call:
    """A named endpoint, by values in their order or by name."""
    values: dict[str, dict[str, list[Any]]] = {
        "generate": {
            "task": [*TASKS],
            "prompt": [marker, f"{marker}\n{text(chance)}"],
            "cluster": ["", "general"],
            "labels_only": [True, False],
        },
        "tasks": {},
        "gates": {"task": [*TASKS], "cluster": ["", "general"]},
        "leaderboard": {"cluster": ["", "medical"], "local": [True, False]},
        "runs": {"name": ["", "main"]},
    }
    name = chance.choice(list(values))
    sent = {
        key: chance.choice(usual) if chance.random() < 0.5 else any_value(chance)
        for key, usual in values[name].items()
        if chance.random() < 0.95
    }
    if chance.random() < 0.05:
        sent[text(chance)[:20]] = any_value(chance)
    if chance.random() < 0.2:
        return _queued(f"call {name} by name", f"{API}/call/v2/{name}", as_json(sent), name)
    data = [*sent.values(), *(few(chance) if chance.random() < 0.05 else ())]
    return _queued(f"call {name}", f"{API}/call/{name}", as_json({"data": data}), name)


def _queued(kind: str, path: str, body: bytes, name: str) -> Call:
    return Call(kind, "POST", path, body, AS_JSON, follow=f"{API}/call/{name}/{{}}")


def _private(chance: random.Random, page: Page, marker: str) -> Call:
    """An event of the page itself, some of its values as the page would send them."""
    event = chance.choice(page.events)
    odd = chance.choice((0.0, 0.1, 0.5, 1.0))
    values = [
        any_value(chance)
        if chance.random() < odd
        else _usual(chance, page.components.get(place, {}), marker)
        for place in event["inputs"]
    ]
    if chance.random() < 0.05:
        values = values[: chance.randrange(len(values) + 1)]
    session = chance.choice((marker, marker, text(chance)[:30]))
    body: dict[str, Any] = {"data": values, "fn_index": event["id"], "session_hash": session}
    if chance.random() < 0.4:
        body["event_data"] = any_value(chance)
    if chance.random() < 0.5:
        targets = [target[0] for target in event["targets"]]
        body["trigger_id"] = chance.choice([*targets, *page.components, -1, 10**9])
    if event["queue"]:
        follow = f"{API}/queue/data?session_hash={quote(session, errors='replace')}"
        return Call("queued event", "POST", f"{API}/queue/join", as_json(body), AS_JSON, follow)
    return Call("event", "POST", f"{API}/run/predict", as_json(body), AS_JSON)


def _usual(chance: random.Random, component: dict[str, Any], marker: str) -> Any:
    """A value that the component could have."""
    value = component.get("value")
    choices = [one[1] for one in component.get("choices") or ()]
    of_kind: dict[str, tuple[Any, ...]] = {
        "slider": (0, 1, 2, 0.05, 7, -3),
        "number": (0, 1, 8, 64),
        "radio": (*choices, value, *TASKS, "general"),
        "dropdown": (*choices, value, *TASKS, "general"),
        "checkboxgroup": (choices, choices[:1], []),
        "checkbox": (True, False),
        "textbox": (value, marker, "今天天气很好，我们去公园散步。"),
    }
    return chance.choice(of_kind.get(component.get("type", ""), (value,)))
