"""A comparison in a few files of limited size: made by hand, put back, damaged, and a real one."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cgclora.config import ConfigError
from cgclora.storage import atomic_io
from evals.__main__ import main
from evals.experiments.comparison_dir import ADAPTER_RECORD
from evals.experiments.grid import Grid
from evals.experiments.parts import parts as parts_module
from evals.experiments.parts.part_files import INDEX
from evals.experiments.parts.parts import MB, read_parts, write_parts
from evals.experiments.recipe import recipe_from_dict
from evals.runs.run_dir import RunError, find_runs, read_run
from tests.helpers.run_dirs import write_folder
from tests.helpers.tiny import make_backbone, save_backbone

SIZE = 0.05
LIMIT = int(SIZE * MB)
WEIGHTS = 30_000
"""Bytes of an adapter: the second one does not fit into the part of the first."""
METHODS = {"lora-full": "LoRA (Full)", "cgc-lora": "CGC-LoRA", "moe-lora": "MOE-LoRA"}
FIRST = "part-001.zip"


def noise(size: int, seed: object) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def write_adapter(folder: Path, loss: float, size: int) -> None:
    content = {"config.json": b"{}", "adapter.safetensors": noise(size, folder)}
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in content.items()
    }
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest = {"format": 1, "training": {"best_dev_loss": loss}, "files": listed}
    atomic_io.write_sealed(folder / "manifest.json", manifest)


def write_training(folder: Path, loss: float, size: int) -> None:
    write_adapter(folder / "adapter", loss, size)
    (folder / "run.json").write_text("{}")
    (folder / "log.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n' * 50)
    (folder / "timings.json").write_text("{}")  # whatever else may be there
    (folder / ".lock").write_text("")
    (folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoints" / "checkpoint-1" / "adapter.safetensors").write_bytes(b"old")


def write_cell(out: Path, method: str, seed: int = 0, *, size: int = WEIGHTS) -> None:
    """A finished cell: two rates, of which the first was chosen."""
    cell = f"medical/{method}/seed-{seed}"
    for rate, loss in ((0.001, 1.0), (0.002, 2.0)):
        write_training(out / "adapters" / cell / f"rate-{rate:g}", loss, size)
    write_folder(
        out / "runs" / cell,
        {"NER": {}},
        noise(500, cell),
        method=METHODS[method],
        seed=seed,
        learning_rate=0.001,
    )


def start(out: Path, data: str = "d" * 64) -> Path:
    out.mkdir(parents=True)
    recipe = {"methods": [*METHODS.values()], "seeds": [0, 1]}
    claims = {"hash": "h" * 64, "backbone": "b" * 64, "data": {"test": data}}
    atomic_io.write_json(out / "recipe.json", {**claims, "code": None, "recipe": recipe})
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A comparison of three cells, with a fourth under way."""
    out = start(tmp_path / "out")
    for method in METHODS:
        write_cell(out, method)
    under_way = out / "adapters/medical/cgc-lora/seed-1/rate-0.001"
    write_training(under_way, 1.0, WEIGHTS)
    shutil.rmtree(under_way / "adapter")
    (out / "runs/medical/cgc-lora/seed-1.partial").mkdir()
    (out / "runs/medical/cgc-lora/seed-1.partial/answers.jsonl").write_text("[]\n")
    return out


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def expected(out: Path) -> dict[str, bytes]:
    """What of a comparison's folder is put back elsewhere."""
    kept = {}
    for path, content in tree(out).items():
        folder, _, name = path.rpartition("/")
        training, _, last = folder.rpartition("/")
        if "seed-1/" in path or "seed-1." in path or "checkpoints" in path or name[0] == ".":
            continue
        if last == "adapter" and name == "manifest.json":
            kept[f"{training}/{ADAPTER_RECORD}"] = content
        if last != "adapter" or "rate-0.001" in training:
            kept[path] = content
    return kept


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries(part: Path) -> list[str]:
    with zipfile.ZipFile(part) as archive:
        return archive.namelist()


def test_what_is_finished_is_put_back_as_it_was(out, tmp_path):
    written = write_parts(out, tmp_path / "parts", SIZE)
    assert sorted(path.name for path in written) == names(tmp_path / "parts")
    found = read_parts(tmp_path / "parts", tmp_path / "back")
    assert tree(tmp_path / "back") == expected(out)
    assert found.missing == {}
    assert found.there == ()
    assert "adapters/medical/cgc-lora/seed-0/rate-0.001/adapter" in found.written


def test_adapters_of_rates_that_were_not_chosen_leave_their_record_alone(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    other = tmp_path / "back/adapters/medical/cgc-lora/seed-0/rate-0.002"
    assert names(other) == ["adapter.json", "log.jsonl", "run.json", "timings.json"]
    assert atomic_io.read_sealed(other / ADAPTER_RECORD)["training"]["best_dev_loss"] == 2.0


def test_of_the_adapter_that_a_task_was_added_to_the_record_is_kept(tmp_path):
    out = start(tmp_path / "out")
    cell, rate = "medical/cgc-lora-added/seed-0", "rate-0.001"
    facts = {"method": "CGC-LoRA (added)", "seed": 0, "learning_rate": 0.001}
    for task in ("ner", "couplet"):
        training = out / "adapters" / cell / rate / task
        write_training(training, 1.0, WEIGHTS)
        write_training(training / "others", 2.0, WEIGHTS)
    shutil.rmtree(training / "adapter")  # of a task that is not over
    write_folder(out / "runs" / cell, {"NER": {}}, b"", **facts)
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    back = tmp_path / "back/adapters" / cell / rate
    assert names(back) == ["ner"]
    record = ["adapter.json", "log.jsonl", "run.json", "timings.json"]
    assert names(back / "ner") == sorted(["adapter", "others", *record])
    assert names(back / "ner/others") == record
    assert "adapter.safetensors" in names(back / "ner/adapter")


def test_what_was_put_back_can_be_written_and_put_back_once_more(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    assert write_parts(tmp_path / "back", tmp_path / "parts", SIZE) == []
    write_parts(tmp_path / "back", tmp_path / "more", SIZE)
    read_parts(tmp_path / "more", tmp_path / "third")
    assert tree(tmp_path / "third") == tree(tmp_path / "back")


@pytest.mark.parametrize("size", [0.03, 0.05, 0.2])
def test_no_part_is_larger_than_asked_for(tmp_path, size):
    out = start(tmp_path / "out")
    write_cell(out, "cgc-lora", size=3 * LIMIT)
    log = out / "adapters/medical/cgc-lora/seed-0/rate-0.002/log.jsonl"
    log.write_text(noise(2 * LIMIT, "log").hex())  # a file of each kind takes several parts
    for method in ("lora-full", "moe-lora"):
        write_parts(out, tmp_path / "parts", size)
        write_cell(out, method)
    write_parts(out, tmp_path / "parts", size)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "parts").iterdir()}
    assert max(sizes.values()) <= size * MB
    read_parts(tmp_path / "parts", tmp_path / "back")
    assert tree(tmp_path / "back") == expected(out)


def test_parts_are_filled(tmp_path):
    out = start(tmp_path / "out")
    write_cell(out, "cgc-lora", size=10 * MB)
    write_parts(out, tmp_path / "parts", 1)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "parts").glob("part-w*"))]
    assert len(sizes) == 11
    assert min(sizes[:-1]) > 0.98 * MB


def test_the_first_part_has_the_recipe_and_all_predictions(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    for path in (tmp_path / "parts").iterdir():
        if path.name != FIRST:
            path.unlink()
    found = read_parts(tmp_path / "parts", tmp_path / "back")
    assert (tmp_path / "back/recipe.json").exists()
    assert len(find_runs(tmp_path / "back/runs")) == 3
    weights = "adapters/medical/cgc-lora/seed-0/rate-0.001/adapter/adapter.safetensors"
    assert found.missing[weights] == ("part-weights-001.zip",)
    assert not (tmp_path / "back" / weights).parent.exists()


def test_the_most_important_comes_first(out, tmp_path):
    write_cell(out, "cgc-lora", 2)  # no seed of the recipe's
    write_parts(out, tmp_path / "parts", 1)
    inside = entries(tmp_path / "parts" / FIRST)
    assert inside[:2] == [INDEX, "recipe.json"]
    folders = list(dict.fromkeys(path.rpartition("/")[0] for path in inside[2:]))
    order = [f"medical/{cell}" for cell in ("cgc-lora/seed-0", "cgc-lora/seed-2")]
    order += [f"medical/{method}/seed-0" for method in ("lora-full", "moe-lora")]
    assert folders[:4] == [f"runs/{cell}" for cell in order]
    assert all(folder.startswith("adapters/") for folder in folders[4:])
    weights = entries(tmp_path / "parts/part-weights-001.zip")
    adapters = list(dict.fromkeys(path.rpartition("/")[0] for path in weights[1:]))
    assert adapters == [f"adapters/{cell}/rate-0.001/adapter" for cell in order]


def test_full_parts_stay_byte_for_byte_while_more_is_finished(tmp_path):
    out = start(tmp_path / "out")
    before: dict[str, bytes] = {}
    for place, (method, seed) in enumerate([(m, seed) for seed in (0, 2) for m in METHODS]):
        write_cell(out, method, seed)
        assert write_parts(out, tmp_path / "parts", SIZE)
        now = tree(tmp_path / "parts")
        for series in ("part-0", "part-w"):
            full = sorted(name for name in before if name.startswith(series))[:-1]
            assert {name: now[name] for name in full} == {name: before[name] for name in full}
        before = now
        read_parts(tmp_path / "parts", tmp_path / f"back{place}")
        assert tree(tmp_path / f"back{place}") == expected(out)
    assert len(before) > 6
    assert write_parts(out, tmp_path / "parts", SIZE) == []
    assert tree(tmp_path / "parts") == before


def test_weights_that_do_not_fit_keep_no_later_predictions_back(tmp_path):
    out = start(tmp_path / "out")
    for method in METHODS:
        write_cell(out, method, size=2 * LIMIT)
        write_parts(out, tmp_path / "parts", SIZE)
    assert sum(path.endswith("predictions.parquet") for path in entries(tmp_path / "parts" / FIRST))
    runs = [path for path in entries(tmp_path / "parts" / FIRST) if path.startswith("runs/")]
    assert len({path.split("/")[2] for path in runs}) == len(METHODS)


def test_a_folder_that_changed_counts_as_it_is_now(out, tmp_path):
    run = out / "runs/medical/cgc-lora/seed-0"
    scored = tree(run)
    shutil.rmtree(run)
    write_folder(run, None, b"", method="CGC-LoRA", seed=0, learning_rate=0.001)
    write_parts(out, tmp_path / "parts", SIZE)
    for seed in (2, 3, 4):  # until the part with the earlier one is full
        write_cell(out, "moe-lora", seed)
        log = out / f"adapters/medical/moe-lora/seed-{seed}/rate-0.001/log.jsonl"
        log.write_bytes(noise(LIMIT // 2, seed))
        write_parts(out, tmp_path / "parts", SIZE)
    full = (tmp_path / "parts" / FIRST).read_bytes()
    for name, content in scored.items():
        (run / name).write_bytes(content)
    write_parts(out, tmp_path / "parts", SIZE)
    assert (tmp_path / "parts" / FIRST).read_bytes() == full
    read_parts(tmp_path / "parts", tmp_path / "back")
    assert tree(tmp_path / "back") == expected(out)


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let so many files take their names, and none after them."""
    left = [writes]
    replace = os.replace

    def killed(source: Any, target: Any, **options: Any) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", killed)


def test_a_process_that_is_killed_between_writes_loses_nothing(tmp_path):
    out = start(tmp_path / "out")
    write_cell(out, "lora-full")
    write_parts(out, tmp_path / "first", SIZE)
    there = expected(out)
    run = out / "runs/medical/lora-full/seed-0"
    facts = {"method": "LoRA (Full)", "seed": 0, "learning_rate": 0.001}
    write_folder(run, {"NER": {}}, b"other scores", **facts)
    log = out / "adapters/medical/lora-full/seed-0/rate-0.002/log.jsonl"
    log.write_bytes(noise(2 * LIMIT, "log"))  # both are in the first part, and change
    for method in ("cgc-lora", "moe-lora"):
        write_cell(out, method)
    for writes in range(20):
        folder = shutil.copytree(tmp_path / "first", tmp_path / f"parts{writes}")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, writes)
            try:
                write_parts(out, folder, SIZE)
                break
            except Killed:
                pass
        back = tmp_path / f"back{writes}"
        read_parts(folder, back)
        found, now = tree(back), expected(out)
        assert found.keys() >= there.keys()
        assert all(content in (there.get(path), now.get(path)) for path, content in found.items())
        (folder / f".{FIRST}.{16 * '0'}").write_bytes(b"")  # of a process that cannot clean up
        write_parts(out, folder, SIZE)
        shutil.rmtree(back)
        assert read_parts(folder, back).missing == {}
        assert tree(back) == now
        assert all(name.startswith("part-") for name in names(folder))
    assert writes > 4


def test_a_put_back_that_is_killed_leaves_whole_folders_and_goes_on(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    back = tmp_path / "back"
    run, adapter = (
        set(names(out / folder / "medical/cgc-lora/seed-0" / below))
        for folder, below in (("runs", "."), ("adapters", "rate-0.001/adapter"))
    )
    for turn in range(100):
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, turn % 2)
            try:
                read_parts(tmp_path / "parts", back)
                break
            except Killed:
                pass
        for manifest in back.rglob("manifest.json"):
            assert set(names(manifest.parent)) in (run, adapter)
    assert turn > 5
    assert tree(back) == expected(out)


def test_what_is_complete_without_a_missing_part_is_put_back(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    (tmp_path / "parts/part-weights-002.zip").unlink()
    found = read_parts(tmp_path / "parts", tmp_path / "back")
    assert set(found.missing.values()) == {("part-weights-002.zip",)}
    there = tree(tmp_path / "back")
    assert there == {path: content for path, content in expected(out).items() if path in there}
    lost = {path.rpartition("/")[0] for path in found.missing}
    assert lost == {path.rpartition("/")[0] for path in expected(out).keys() - there.keys()}
    write_parts(out, tmp_path / "again", SIZE)
    assert read_parts(tmp_path / "again", tmp_path / "back").missing == {}
    assert tree(tmp_path / "back") == expected(out)


def test_parts_that_lack_one_are_completed_in_further_ones(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    (tmp_path / "parts/part-weights-001.zip").unlink()
    assert write_parts(out, tmp_path / "parts", SIZE)
    assert read_parts(tmp_path / "parts", tmp_path / "back").missing == {}
    assert tree(tmp_path / "back") == expected(out)


def test_a_run_that_is_not_what_its_manifest_says_is_left_out(out, tmp_path):
    (out / "runs/medical/cgc-lora/seed-0/metrics.json").write_text("{}")
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    assert [path.parent.name for path in find_runs(tmp_path / "back")] == ["lora-full", "moe-lora"]


# Merging ----------------------------------------------------------------------------------


def test_a_second_put_back_changes_nothing(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    first = read_parts(tmp_path / "parts", tmp_path / "back")
    before = tree(tmp_path / "back")
    second = read_parts(tmp_path / "parts", tmp_path / "back")
    assert (second.written, second.there) == ((), tuple(sorted(first.written)))
    assert tree(tmp_path / "back") == before


def test_parts_of_two_machines_come_together(tmp_path):
    for method in METHODS:
        write_cell(start(tmp_path / method), method)
        write_parts(tmp_path / method, tmp_path / f"parts-{method}", SIZE)
        read_parts(tmp_path / f"parts-{method}", tmp_path / "back")
    assert tree(tmp_path / "back") == {
        path: content for method in METHODS for path, content in expected(tmp_path / method).items()
    }


@pytest.mark.parametrize(
    "path",
    [
        "runs/medical/moe-lora/seed-0/predictions.parquet",
        "adapters/medical/moe-lora/seed-0/rate-0.001/adapter/config.json",
        "adapters/medical/moe-lora/seed-0/rate-0.002/log.jsonl",
    ],
)
def test_a_file_that_differs_is_named_and_nothing_is_changed(out, tmp_path, path):
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    shutil.rmtree(tmp_path / "back/runs/medical/cgc-lora")
    (tmp_path / "back" / path).write_bytes(b"another")
    if path.startswith("runs"):
        manifest = (tmp_path / "back" / path).with_name("manifest.json")
        manifest.write_text(manifest.read_text().replace("2026-01-01", "2026-01-02"))
    before = tree(tmp_path / "back")
    with pytest.raises(RunError, match=r"moe-lora.* differs from the one in the parts: move"):
        read_parts(tmp_path / "parts", tmp_path / "back")
    assert tree(tmp_path / "back") == before


def test_a_folder_that_is_there_in_part_is_not_written_over(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    run = tmp_path / "back/runs/medical/cgc-lora/seed-0"
    run.mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is there, but not all of its files: move it away"):
        read_parts(tmp_path / "parts", tmp_path / "back")
    assert list(tree(tmp_path / "back")) == ["runs/medical/cgc-lora/seed-0/notes.txt"]


def test_a_run_that_was_scored_since_stays_as_it_is(out, tmp_path):
    run = out / "runs/medical/cgc-lora/seed-0"
    scored = tree(run)
    shutil.rmtree(run)
    facts = {"method": "CGC-LoRA", "seed": 0, "learning_rate": 0.001}
    write_folder(run, None, b"", **facts)
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "back")
    write_folder(tmp_path / "back" / run.relative_to(out), {"NER": {}}, b"scores", **facts)
    before = tree(tmp_path / "back")
    found = read_parts(tmp_path / "parts", tmp_path / "back")
    assert run.relative_to(out).as_posix() in found.there
    assert tree(tmp_path / "back") == before
    assert scored.keys() == tree(tmp_path / "back" / run.relative_to(out)).keys()


def test_another_comparison_is_refused(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    other = start(tmp_path / "other", data="e" * 64)
    before = tree(other)
    for refused in (read_parts, lambda folder, out: write_parts(out, folder, SIZE)):
        with pytest.raises(RunError, match=r"differs in data from that of part-001.zip: choose"):
            refused(tmp_path / "parts", other)
    assert tree(other) == before
    write_parts(other, tmp_path / "others", SIZE)
    shutil.copy(tmp_path / "others" / FIRST, tmp_path / "parts/part-009.zip")
    with pytest.raises(RunError, match=r"is of another comparison than part-001.zip"):
        read_parts(tmp_path / "parts", tmp_path / "back")


def test_a_recipe_with_more_methods_is_the_same_comparison(out, tmp_path):
    write_parts(out, tmp_path / "parts", SIZE)
    recipe = json.loads((out / "recipe.json").read_text())
    recipe["recipe"]["methods"].append("Backbone")
    atomic_io.write_json(out / "recipe.json", recipe)
    back = start(tmp_path / "back")
    read_parts(tmp_path / "parts", back)
    assert tree(back)["recipe.json"] == tree(start(tmp_path / "fresh"))["recipe.json"]
    write_parts(out, tmp_path / "parts", SIZE)
    read_parts(tmp_path / "parts", tmp_path / "newest")
    assert tree(tmp_path / "newest") == expected(out)


# Bad input --------------------------------------------------------------------------------


def test_a_damaged_part_is_refused_before_anything_is_put_back(out, tmp_path):
    write_parts(out, tmp_path / "whole", SIZE)
    wanted = expected(out)
    chance = random.Random(0)
    for turn in range(150):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "parts")
        part = chance.choice(sorted(folder.iterdir()))
        content = bytearray(part.read_bytes())
        if turn % 3:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif turn % 2:  # where the archive says what is where
            content[-chance.randrange(1, min(3000, len(content)))] = chance.randrange(256)
        else:
            del content[chance.randrange(len(content)) :]
        part.write_bytes(content)
        try:
            read_parts(folder, tmp_path / "back")
            assert tree(tmp_path / "back") == wanted  # what was hit says nothing, such as a date
            shutil.rmtree(tmp_path / "back")
        except RunError:
            assert not (tmp_path / "back").exists()
        shutil.rmtree(folder)


Change = Callable[[dict[str, Any], dict[str, bytes]], None]


def forged(folder: Path, change: Change, attributes: Mapping[str, int] | None = None) -> Path:
    """A part whose index and entries somebody has changed."""
    recipe = start(folder.with_name("forged")) / "recipe.json"
    write_parts(recipe.parent, folder, SIZE)
    with zipfile.ZipFile(folder / FIRST) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(inside.pop(INDEX))
    change(index, inside)
    with zipfile.ZipFile(folder / FIRST, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(INDEX, json.dumps(index))
        for name, content in inside.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (attributes or {}).get(name, 0)
            archive.writestr(info, content)
    return folder


def added(folder: str, name: str, content: bytes, size: int | None = None) -> Change:
    def change(index: dict[str, Any], inside: dict[str, bytes]) -> None:
        facts = {
            "bytes": len(content) if size is None else size,
            "sha256": hashlib.sha256(content).hexdigest(),
            "parts": [FIRST],
        }
        index["folders"].setdefault(folder, {})[name] = facts
        inside[f"{folder}/{name}" if folder else name] = content

    return change


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/../../..", "x"),
        ("runs/a", "../../../x"),
        ("runs/a", ".."),
        ("/tmp", "x"),
        ("/runs/a", "x"),
        ("", "x"),
        ("", "/x"),
        ("runs", "x"),
        ("runs/a/", "x"),
        ("runs/a//b", "x"),
        ("runs/a", ".lock"),
        ("runs/.a.new", "x"),
        ("C:/runs", "x"),
        ("runs/a", "C:x"),
        ("runs\\a", "x"),
        ("runs/a", "b\\..\\x"),
        ("runs/a", "x\n"),
        ("runs/a", "x\0"),
        ("runs/a", ""),
        ("elsewhere/a", "x"),
    ],
)
def test_a_path_that_is_none_of_a_comparison_is_refused(tmp_path, folder, name):
    parts = forged(tmp_path / "parts", added(folder, name, b"x"))
    with pytest.raises(RunError, match=r"part-001.zip is damaged .* is no f(older|ile) of a"):
        read_parts(parts, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_entry_that_the_index_does_not_have_is_refused(tmp_path):
    parts = forged(tmp_path / "parts", lambda _, inside: inside.update({"../x": b"x"}))
    with pytest.raises(RunError, match=r"its index does not have '../x'"):
        read_parts(parts, tmp_path / "back")


def test_a_link_is_refused(tmp_path):
    change = added("runs/a", "x", b"/etc/passwd")
    parts = forged(tmp_path / "parts", change, {"runs/a/x": 0o120777 << 16})
    with pytest.raises(RunError, match=r"runs/a/x is a link"):
        read_parts(parts, tmp_path / "back")


def test_an_entry_larger_than_its_index_says_is_refused(tmp_path):
    parts = forged(tmp_path / "parts", added("runs/a", "x", bytes(10 * MB), size=100))
    assert (parts / FIRST).stat().st_size < LIMIT
    with pytest.raises(RunError, match=r"runs/a/x is larger than its index says"):
        read_parts(parts, tmp_path / "back")


def test_an_entry_larger_than_its_own_header_says_is_refused(tmp_path):
    content = bytes(MB)
    parts = forged(tmp_path / "parts", added("runs/a", "x", content, size=100))
    raw = (parts / FIRST).read_bytes()
    small = raw.replace(len(content).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert small != raw
    (parts / FIRST).write_bytes(small)
    with pytest.raises(RunError, match="runs/a/x is damaged"):
        read_parts(parts, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_more_than_the_disk_has_room_for_is_refused(out, tmp_path, monkeypatch):
    write_parts(out, tmp_path / "parts", SIZE)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(parts_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="0 MB are free"):
        read_parts(tmp_path / "parts", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def a_file(key: str, value: object) -> Change:
    def change(index: dict[str, Any], _: object) -> None:
        index["folders"][""]["recipe.json"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, _: index.update(format=2), "its format is 2, this version reads 1"),
        (lambda index, _: index.pop("folders"), "KeyError|'folders'"),
        (lambda index, _: index.update(folders=[]), "damaged or no part"),
        (lambda index, _: index.update(comparison=3), "damaged or no part"),
        (lambda index, _: index.update(comparison={}), "another comparison than its recipe"),
        (lambda _, inside: inside.update({"recipe.json": b"{}"}), "recipe.json is damaged in"),
        (a_file("bytes", -1), "are no facts of a file"),
        (a_file("bytes", True), "are no facts of a file"),
        (a_file("sha256", "0"), "are no facts of a file"),
        (a_file("sha256", 64 * "0"), "its hash is not the one in the index"),
        (a_file("parts", []), "are no parts"),
        (a_file("parts", ["../part-001.zip"]), "are no parts"),
        (a_file("parts", [FIRST, FIRST]), "recipe.json is damaged"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, change, message):
    parts = forged(tmp_path / "parts", change)
    with pytest.raises(RunError, match=message):
        read_parts(parts, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("field", [30, 32])
def test_a_damaged_length_in_the_directory_hides_no_entries(out, tmp_path, field):
    """Bytes 30 and 32 of an entry of a zip file's directory: the lengths of extra and comment."""
    write_parts(out, tmp_path / "parts", SIZE)
    part = tmp_path / "parts" / FIRST
    content = part.read_bytes()
    places = [found.start() for found in re.finditer(b"PK\x01\x02", content)]
    assert len(places) == len(entries(part))
    for place in places[:-1]:
        part.write_bytes(content[: place + field] + b"\0\x20" + content[place + field + 2 :])
        with pytest.raises(RunError, match=r"part-001.zip is damaged"):
            read_parts(tmp_path / "parts", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_two_entries_of_one_name_are_refused(tmp_path):
    parts = forged(tmp_path / "parts", lambda *_: None)
    with zipfile.ZipFile(parts / FIRST, "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr("recipe.json", b"{}")
    with pytest.raises(RunError, match="two entries of one name"):
        read_parts(parts, tmp_path / "back")


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_what_is_no_part_is_refused(tmp_path, content):
    (tmp_path / "parts").mkdir()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x", "y")
    (tmp_path / "parts" / FIRST).write_bytes(stream.getvalue() if content is None else content)
    with pytest.raises(RunError, match=r"part-001.zip is damaged or no part of a comparison"):
        read_parts(tmp_path / "parts", tmp_path / "back")


def test_a_folder_without_parts_is_an_error(tmp_path):
    with pytest.raises(RunError, match="holds no part of a comparison"):
        read_parts(tmp_path, tmp_path / "back")


def test_a_folder_that_holds_no_comparison_has_no_parts(tmp_path):
    with pytest.raises(RunError, match=r"holds no comparison: recipe.json is missing"):
        write_parts(tmp_path, tmp_path / "parts")
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(RunError, match=r"recipe.json is damaged"):
        write_parts(tmp_path, tmp_path / "parts")


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), 0.019])
def test_a_size_that_no_part_can_have_is_refused(out, tmp_path, size):
    with pytest.raises(ConfigError, match=r"part_size_mb must be a number >= 0.02"):
        write_parts(out, tmp_path / "parts", size)


def test_parts_too_small_for_their_index_are_refused(tmp_path):
    out = start(tmp_path / "out")
    for seed in range(5):
        write_cell(out, "cgc-lora", seed, size=10)
    with pytest.raises(ConfigError, match=r"parts of 0.02 MB are too small .* twice that"):
        write_parts(out, tmp_path / "parts", 0.02)


# With a real comparison -------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "name": "tiny",
    "learning_rates": [1e-3, 1e-2],
    "clusters": {"general": ["NER", "Couplet"]},
    "methods": ["LoRA (Single)", "CGC-LoRA", "LoRAHub"],
    "records": {"train": 4, "dev": 2, "test": 2},
    "sizes": {"lora_rank": 2, "common": 2},
    "training": {"epochs": 1, "batch_size": 2, "evaluations": 1},
    "search": {"examples": 2, "evaluations": 6},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "dev", "test"):
        lines = [
            json.dumps({"kind": kind, "input": f"{split} {place} {kind}", "target": target})
            for place in range(5)
            for kind, target in (("NER", "人名：王小明"), ("Couplet", "秋雨"))
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def matrix(source: Path, out: Path, seeds: Sequence[int] = (0,), **options: Any) -> Grid:
    recipe = recipe_from_dict({**VALUES, "seeds": [*seeds]})
    return Grid(recipe, make_backbone(), source, out, **options)


@pytest.fixture(scope="module")
def real(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison, and beside it the parts that were written as its cells were finished."""
    out = tmp_path_factory.mktemp("real") / "out"
    parts = out.with_name("parts")
    done: list[int] = []

    def finished() -> None:
        write_parts(out, parts, 1)
        with zipfile.ZipFile(parts / FIRST) as archive:
            done.append(sum(name.endswith("predictions.parquet") for name in archive.namelist()))

    assert matrix(source, out, finished=finished).run().left == ()
    assert done == [1, 2, 3]
    return out


def lines_of(matrix: Grid) -> list[str]:
    lines: list[str] = []
    assert matrix.run(report=lines.append).left == ()
    return lines


def test_a_comparison_that_was_put_back_is_done(source, real, tmp_path):
    read_parts(real.with_name("parts"), tmp_path)
    assert lines_of(matrix(source, tmp_path)) == []
    for folder in find_runs(real / "runs"):
        back = read_run(tmp_path / folder.relative_to(real))
        assert back.predictions().equals(read_run(folder).predictions())
        assert back.metrics is not None
    hub = "adapters/general/lorahub/seed-0"
    found = {path: content for path, content in tree(tmp_path).items() if path.startswith(hub)}
    assert {path: tree(real)[path] for path in found if not path.endswith(ADAPTER_RECORD)} == {
        path: content for path, content in found.items() if not path.endswith(ADAPTER_RECORD)
    }
    assert {path.rpartition("/")[2] for path in found} >= {"ner.json", "adapter.safetensors"}


def test_a_further_seed_takes_the_rate_by_the_records(source, real, tmp_path):
    read_parts(real.with_name("parts"), tmp_path)
    lines = lines_of(matrix(source, tmp_path, (0, 1)))
    trained = [line for line in lines if ": training" in line]
    assert len(trained) == 3  # two LoRAs and a CGC-LoRA, each with one rate
    assert all("seed-1" in line for line in trained)


def test_an_adapter_whose_weights_were_not_brought_is_trained_once_it_is_needed(
    source, real, tmp_path
):
    for path in real.with_name("parts").glob("part-0*"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "parts")
    out = tmp_path / "out"
    assert read_parts(tmp_path / "parts", out).missing
    shutil.rmtree(out / "runs/general/cgc-lora")
    lines = lines_of(matrix(source, out))
    trained = [line for line in lines if ": training" in line]
    assert len(trained) == 1
    run = "runs/general/cgc-lora/seed-0"
    first, second = (read_run(folder / run) for folder in (real, out))
    assert second.predictions().equals(first.predictions())
    rate = f"adapters/general/cgc-lora/seed-0/rate-{first.manifest['learning_rate']:g}"
    assert not (out / rate / ADAPTER_RECORD).exists()
    assert (out / rate / "log.jsonl").read_text().count("dev_losses") == 1


def test_a_damaged_record_says_what_to_do(source, real, tmp_path, capsys):
    read_parts(real.with_name("parts"), tmp_path)
    for record in tmp_path.rglob(ADAPTER_RECORD):
        record.write_text("{}")
    with pytest.raises(Exception, match=r"adapter.json is damaged .* put back a copy, or remove"):
        matrix(source, tmp_path, (0, 1)).run()


# Command line -----------------------------------------------------------------------------


def test_parts_are_put_back_without_a_recipe(out, tmp_path, capsys):
    write_parts(out, tmp_path / "parts", SIZE)
    (tmp_path / "parts/part-weights-002.zip").unlink()
    words = ["matrix", "--from-parts", str(tmp_path / "parts"), "--out", str(tmp_path / "back")]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "folders are put back, 0 were there" in said
    assert "adapter.safetensors, which is in part-weights-002.zip" in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] == []
    assert "runs/medical/cgc-lora/seed-0" in found["there"]


def test_parts_are_written_and_put_back_beside_the_work(source, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nmethods = ["Backbone"]\n[records]\ntest = 1\n'
        '[clusters]\ngeneral = ["Couplet"]\n'
    )
    words = ["matrix", str(tmp_path / "mine.toml"), "--data", str(source), "--device", "cpu"]
    words += ["--backbone", str(save_backbone(tmp_path / "backbone"))]
    parts = tmp_path / "parts"
    kept = ["--parts", str(parts), "--part-size", "0.5"]
    assert main([*words, "--out", str(tmp_path / "out"), *kept]) == 0
    assert names(parts) == [FIRST]
    assert "answered 1 of 1" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "back"), "--from-parts", str(parts)]) == 0
    said = capsys.readouterr()
    assert "1 cells are done, 0 are left" in said.out
    assert "answered" not in said.err
    (parts / FIRST).write_bytes(b"")
    assert main([*words, "--out", str(tmp_path / "new"), *kept]) == 6
    said = capsys.readouterr().err
    assert "part-001.zip is damaged" in said
    assert "answered" not in said


def test_without_recipe_and_parts_there_is_nothing_to_do(tmp_path, capsys):
    assert main(["matrix", "--out", str(tmp_path)]) == 2
    assert "needs a recipe, or --from-parts" in capsys.readouterr().err
