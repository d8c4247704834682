"""Several processes that start on the same folder at the same time."""

from __future__ import annotations

from pathlib import Path

from tests.suites.faults.kills import check_adapter, check_cache, check_training, usual_conversion
from tests.suites.faults.processes import Child, Work, start
from tests.suites.faults.scene import Kind, Scene
from tests.suites.faults.works import convert, save_adapters, train
from tests.suites.faults.world import FIRST, make_world

FAULT = "together"


def _begin(scene: Scene, number: int, work: Work, *arguments: object) -> list[Child]:
    """Processes with the same work, let go at once."""
    scene.moment = f"{number} processes at once"
    children = [start(work, *arguments, waits=True) for _ in range(number)]
    for child in children:
        child.tell("go")
    return children


def _conversions(scene: Scene) -> str:
    world = make_world(scene.folder, package=True)
    children = _begin(scene, scene.random.choice((2, 3)), convert, world.folder)
    killed = None
    if scene.random.random() < 0.5:  # the others must not wait for one that is gone
        seconds = scene.random.uniform(0, usual_conversion()[0].seconds)
        scene.moment += f", one killed after {1000 * seconds:.0f} ms"
        killed = scene.random.choice(children)
        killed.process.join(seconds)
        killed.kill()
    for child in children:
        child.hear()
    whole = [child for child in children if child is not killed]
    assert all("converted" in child.said for child in whole), [one.failure for one in whole]
    made = sum("saving the converted model" in child.said for child in whole)
    assert made <= 1, f"{made} conversions"
    check_cache(world)
    return "one conversion"


def _savers(scene: Scene) -> str:
    world = make_world(scene.folder)
    children = _begin(scene, 2, save_adapters, world.adapter, FIRST + 1)
    for child in children:
        child.hear()
    # What is noted in a manifest may meet the other's folder, and is refused then.
    for child in children:
        assert child.failure is None, child.failure
    check_adapter(world.adapter, least=FIRST + 1)
    world.check()
    return "one of both"


def _trainings(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder: Path = world.runs / "mine"
    children = _begin(scene, 2, train, folder)
    for child in children:
        child.hear()
    refused = [child.failure for child in children if child.failure is not None]
    assert len(refused) <= 1, refused
    for failure in refused:
        assert "TrainingError" in failure.error, failure
        assert "another process" in failure.message, failure
    check_training(world, folder)
    return "one trained, one refused" if refused else "one after the other"


KINDS = (
    Kind(FAULT, "converting the backbone", 12, _conversions),
    Kind(FAULT, "saving an adapter", 6, _savers),
    Kind(FAULT, "training", 6, _trainings),
)
