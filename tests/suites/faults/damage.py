"""Files cut short or with a flipped bit, in every part that their format has."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file

from cgclora.adapter import Adapter
from cgclora.models.backbone import BackboneError, load_backbone
from cgclora.models.embedded import EMBEDDED
from cgclora.storage.adapter_dir import AdapterError
from evals.experiments.training_log import read_log
from evals.jobs.queue import JobError
from evals.runs.run_dir import RunError, partial_folder, read_run
from tests.helpers.queues import Waiting
from tests.helpers.tiny import make_backbone
from tests.suites.faults.kills import check_cache, check_training, usual_training, what_it_says
from tests.suites.faults.processes import Failure, measure, start
from tests.suites.faults.scene import Kind, Scene
from tests.suites.faults.works import PACKAGE_FILE, convert, stand_in, train, write_run
from tests.suites.faults.world import make_world

FAULT = "damage"

_WAY_OUT = re.compile(
    r"fetch|remove|put back|predict anew|pip install|choose|update cgclora|fit (it|anew|the router)"
)


def spoil(scene: Scene, path: Path) -> str:
    """Flip a bit of a file or cut it short, in one of its parts; returns the part's name."""
    content = bytearray(path.read_bytes())
    name, start, end = scene.random.choice(parts(path, content))
    place = scene.random.randrange(start, end)
    if scene.random.random() < 0.7:
        bit = scene.random.randrange(8)
        content[place] ^= 1 << bit
        scene.moment = f"{path.name}, {name}: bit {bit} of byte {place} flipped"
    else:
        del content[place:]
        scene.moment = f"{path.name}, {name}: cut at byte {place}"
    path.write_bytes(content)
    return name


def parts(path: Path, content: bytes) -> list[tuple[str, int, int]]:
    """The parts of a file that is not empty, each with its first byte and the one after it."""
    size = len(content)
    if path.suffix == ".safetensors":
        head = 8 + struct.unpack("<Q", content[:8])[0]
        found = [("header length", 0, 8), ("header", 8, head), ("tensors", head, size)]
    elif path.suffix == ".parquet":
        foot = size - 8 - struct.unpack("<I", content[-8:-4])[0]
        found = [("magic", 0, 4), ("columns", 4, foot), ("footer", foot, size - 8)]
    elif path.suffix == ".gguf":
        found = [("header", 0, 24), ("metadata", 24, size // 4), ("tensors", size // 4, size)]
    else:
        found = [("start", 0, min(16, size))]
    found += [
        ("anywhere", 0, size),
        ("middle", size // 3, max(size // 3 + 1, 2 * size // 3)),
        ("end", -9 + size, size),
    ]
    return [(name, max(0, start), end) for name, start, end in found if max(0, start) < end]


def read(scene: Scene, path: Path, expected: Any, reading: Callable[[], Any], *errors: type) -> str:
    """Read something damaged: as it was written, or not at all and with a way out.

    Args:
        scene: The trial's.
        path: The damaged file.
        expected: What was written.
        reading: Reads it.
        *errors: What it may raise.
    """
    try:
        found = reading()
    except errors as error:
        check_words(path, str(error))
        return "refused by name"
    assert found == expected, "something else was read than was written"
    return "read as written"


def check_words(path: Path, message: str) -> None:
    """Make sure that a message names a file, or its folder, and a way out."""
    assert path.name in message or path.parent.name in message, message
    assert _WAY_OUT.search(message), message


# An adapter -------------------------------------------------------------------------------------


def _adapter(scene: Scene) -> str:
    world = make_world(scene.folder)
    expected = _whole(world.adapter)
    path = scene.random.choice(sorted(world.adapter.iterdir()))
    spoil(scene, path)
    found = read(scene, path, expected, lambda: _whole(world.adapter), AdapterError)
    world.check(
        adapters=["general"], damaged_adapters=["medical"] if found == "refused by name" else []
    )
    return found


def _whole(folder: Path) -> Any:
    """All that a loaded adapter knows, in values that can be compared."""
    adapter = Adapter.load(folder, make_backbone())
    weights = {name: tensor.tolist() for name, tensor in adapter.state_dict().items()}
    return adapter.config, adapter.manifest, weights, adapter.files


# A run ------------------------------------------------------------------------------------------


def _run(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder = world.runs / "run"
    shutil.copytree(_scored(), folder)
    expected = _all(folder)
    names = ("manifest.json", "metrics.json", "predictions.parquet", "replicates.parquet")
    path = folder / scene.random.choice(names)
    spoil(scene, path)
    found = read(scene, path, expected, lambda: _all(folder), RunError)
    # The board reads no predictions: those are for who asks for samples, and are named there.
    unread = path.name == "predictions.parquet" or found == "read as written"
    world.check(runs=["run"] if unread else [], damaged_runs=[] if unread else ["run"])
    return found


def _all(folder: Path) -> Any:
    run = read_run(folder)
    return run.manifest, what_it_says(run)


@cache
def _kept() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="faults-")


@cache
def _scored() -> Path:
    world = make_world(Path(_kept().name, "scored"))
    measure(write_run, world.folder, world.runs / "run")
    return world.runs / "run"


# Answers that are still coming in ---------------------------------------------------------------


def _answers(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder = world.runs / "run"
    child = start(write_run, world.folder, folder)
    child.hear(until=("kept", 5))
    child.kill()
    if not partial_folder(folder).exists():
        return "finished before"
    names = ("answers.jsonl", "identity.json")
    path = partial_folder(folder) / scene.random.choice(names)
    spoil(scene, path)
    again = start(write_run, world.folder, folder)
    again.hear()
    if again.failure is not None:
        _check_failure(path, again.failure, "RunError")
        world.check()
        return "refused by name"
    assert what_it_says(read_run(folder)) == what_it_says(read_run(_scored()))
    world.check(runs=["run"])
    return "the same run in the end"


def _check_failure(path: Path, failure: Failure, kind: str) -> None:
    assert kind in failure.error, failure
    check_words(path, failure.message)


# Training ---------------------------------------------------------------------------------------


def _training(scene: Scene) -> str:
    world = make_world(scene.folder)
    folder = world.runs / "mine"
    shutil.copytree(_half_trained(), folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    path = scene.random.choice([path for path in paths if path.stat().st_size])
    spoil(scene, path)
    read_log(folder)  # whatever it says, the page that shows it stands
    again = start(train, folder)
    again.hear()
    if again.failure is not None:
        _check_failure(path, again.failure, "TrainingError")
        world.check()
        return "refused by name"
    if path.name == "log.jsonl":  # a damaged line is gone; the weights are what counts
        ours, theirs = (one / "adapter" / "adapter.safetensors" for one in (folder, _trained()))
        assert _bits(ours) == _bits(theirs)
    else:
        check_training(world, folder)
    return "the same weights in the end"


def _bits(path: Path) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def _trained() -> Path:
    return usual_training()[1]


@cache
def _half_trained() -> Path:
    """A run folder with two checkpoints, the result not made yet."""
    folder = Path(_kept().name, "half")
    shutil.copytree(_trained(), folder)
    shutil.rmtree(folder / "adapter")
    return folder


# The cache and the package of the embedded backbone ---------------------------------------------


def _cache(scene: Scene) -> str:
    world = make_world(scene.folder, package=True)
    shutil.copytree(_converted(), world.folder / "cache")
    measure(convert, world.folder)  # notes that the copy is whole
    folder = world.folder / "cache" / EMBEDDED
    path = scene.random.choice(sorted(folder.iterdir()))
    before = _mark(folder)
    spoil(scene, path)
    check_cache(world)
    return "kept" if _mark(folder) == before else "made anew"


def _mark(folder: Path) -> int:
    return folder.stat().st_ino


@cache
def _converted() -> Path:
    world = make_world(Path(_kept().name, "converted"), package=True)
    measure(convert, world.folder)
    return world.folder / "cache"


def _package(scene: Scene) -> str:
    world = make_world(scene.folder, package=True)
    spoil(scene, world.folder / PACKAGE_FILE)
    said = ""
    with stand_in(world.folder):
        try:
            load_backbone(EMBEDDED, device="cpu", progress=lambda stage, fraction: None)
        except BackboneError as error:
            said = str(error)
    assert f"{EMBEDDED} is damaged" in said, said or "a damaged file was taken"
    assert _WAY_OUT.search(said), said
    assert not (world.folder / "cache" / EMBEDDED).exists()
    world.check()
    return "refused by name"


# Jobs -------------------------------------------------------------------------------------------


def _job(scene: Scene) -> str:
    world = make_world(scene.folder)
    queue = Waiting(world.runs)
    jobs = [queue.submit("evaluate", ["-m", "evals"], title=str(number)) for number in range(3)]
    damaged = scene.random.choice(jobs)
    path = damaged.folder / "job.json"
    expected = queue.get(damaged.id)
    spoil(scene, path)
    found = read(scene, path, expected, lambda: queue.get(damaged.id), JobError)
    others = {job.title for job in jobs if job is not damaged}
    assert others <= {job.title for job in queue.all()}
    return found


KINDS: Sequence[Kind] = (
    Kind(FAULT, "an adapter", 40, _adapter),
    Kind(FAULT, "a run", 40, _run),
    Kind(FAULT, "answers that come in", 20, _answers),
    Kind(FAULT, "a training run", 20, _training),
    Kind(FAULT, "the backbone's cache", 30, _cache),
    Kind(FAULT, "the backbone's package", 10, _package),
    Kind(FAULT, "a job", 20, _job),
)
