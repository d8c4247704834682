"""Finding the task and the cluster of prompts that name none."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.analysis.router_accuracy import check
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.records import DataError, Record
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.router import SURE, JoinedRouter, RoutedTask, TaskRouter
from cgclora.storage.adapter_dir import ROUTER_FILE, AdapterError, annotate, read_manifest
from cgclora.storage.atomic_io import read_sealed, sha256_file
from cgclora.training.settings import TrainingSettings
from cgclora.training.train import train
from tests.helpers.tiny import make_backbone, make_model

WORDINGS = {
    "names": "找出句子中的人名和地名：\n{}。",
    "mood": "这条评论是积极还是消极？\n{}，{}。",
    "couplet": "我出上联“{}，{}”，请对下联。",
    "intent": "下面这个搜索词的意图是什么？\n{}\n选项：旅游，购物",
}
FIRST, SECOND = ("names", "mood"), ("couplet", "intent")
_DRAW = random.Random(0)


def prompt(task: str) -> str:
    """One in the wording of its task, over characters that are drawn anew."""
    texts = ["".join(chr(_DRAW.randint(0x4E00, 0x9000)) for _ in range(8)) for _ in range(2)]
    return WORDINGS[task].format(*texts)


PROMPTS = {task: [prompt(task) for _ in range(60)] for task in WORDINGS}
NEW = {task: prompt(task) for task in WORDINGS}
FOREIGN = "def area(width, height):\n    return width * height  # in square metres"


def fitted(*tasks: str) -> TaskRouter:
    return TaskRouter.fit({task: PROMPTS[task] for task in tasks})


@pytest.fixture(scope="module")
def routers() -> dict[str, TaskRouter]:
    return {"first": fitted(*FIRST), "second": fitted(*SECOND)}


@pytest.fixture(scope="module")
def joined(routers: dict[str, TaskRouter]) -> JoinedRouter:
    return JoinedRouter(routers)


def saved(folder: Path, tasks: tuple[str, ...] = FIRST, router: TaskRouter | None = None) -> Path:
    adapter = Adapter.attach(make_model(), AdapterConfig(tasks))
    adapter.files = router.to_files() if router else {}
    adapter.save(folder)
    return folder


def jsonl(path: Path, prompts: dict[str, list[str]]) -> Path:
    lines = [
        json.dumps({"task": task, "input": prompt, "target": "无"}, ensure_ascii=False)
        for task, own in prompts.items()
        for prompt in own
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# Routing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", WORDINGS)
def test_a_new_prompt_in_a_tasks_wording_is_of_that_task_and_its_cluster(task, joined):
    best = joined.route(NEW[task])[0]
    assert (best.cluster, best.task) == ("first" if task in FIRST else "second", task)
    assert best.probability > 0.9
    assert joined.choose(NEW[task]) == best


def test_a_router_is_unsure_of_what_is_none_of_its_tasks(routers, joined):
    assert joined.choose(FOREIGN) is None
    alone = JoinedRouter({"first": routers["first"]})
    for task in SECOND:
        assert alone.choose(NEW[task]) is None
        assert alone.route(NEW[task])[0].probability < 0.1


def test_a_cluster_that_comes_or_goes_changes_no_score_of_the_others(routers, joined):
    alone = JoinedRouter({"first": routers["first"]})
    both = [one for one in joined.route(NEW["mood"]) if one.cluster == "first"]
    assert [one.task for one in both] == [one.task for one in alone.route(NEW["mood"])]
    for prompt in NEW.values():
        routed = joined.route(prompt)
        both = {one.task: one.probability for one in routed if one.cluster == "first"}
        apart = {one.task: one.probability for one in alone.route(prompt)}
        first, second = FIRST
        np.testing.assert_allclose(
            both[first] * apart[second], both[second] * apart[first], rtol=1e-3
        )


def test_the_order_of_the_clusters_does_not_matter(routers, joined):
    other = JoinedRouter(dict(reversed(routers.items())))
    for prompt in (*NEW.values(), FOREIGN):
        assert other.route(prompt) == [
            RoutedTask(one.cluster, one.task, pytest.approx(one.probability, rel=1e-4))
            for one in joined.route(prompt)
        ]


def test_a_router_fitted_on_several_tasks_is_those_fitted_on_each():
    together, apart = fitted(*FIRST), [fitted(task) for task in FIRST]
    for name in ("weights", "scales", "usual", "spread"):
        single = np.concatenate([getattr(one, name) for one in apart])
        assert np.array_equal(getattr(together, name), single)


@given(st.text(min_size=1, max_size=2000).filter(str.strip))
def test_probabilities_of_any_text_are_ordered_and_sum_to_one_at_most(joined, text):
    found = [one.probability for one in joined.route(text)]
    assert all(0 <= p <= 1 for p in found)
    assert found == sorted(found, reverse=True)
    assert sum(found) <= 1 + 1e-5


def test_several_prompts_are_routed_as_each_alone(joined):
    prompts = list(NEW.values())
    for prompt, found in zip(prompts, joined.route_all(prompts), strict=True):
        assert found == joined.route(prompt)
    assert joined.route_all([]) == []


def test_a_task_that_two_clusters_know_is_as_sure_as_one(routers):
    twice = JoinedRouter({"old": routers["first"], "new": routers["first"]})
    assert twice.route(NEW["mood"])[0].probability == pytest.approx(0.5, abs=0.05)
    chosen = twice.choose(NEW["mood"], min_probability=0.9)
    assert chosen is not None
    assert (chosen.cluster, chosen.task) == ("old", "mood")


def test_clusters_that_share_a_task_win_together_against_one_that_is_nearer_alone(
    routers, monkeypatch
):
    joined = JoinedRouter({"old": routers["first"], "new": routers["first"], "x": fitted("intent")})
    scores = {("old", "mood"): 99.9, ("new", "mood"): 99.95, ("x", "intent"): 100.0}
    row = np.array([[scores.get(one, 0.0) for one in joined.tasks]], np.float32)
    monkeypatch.setattr(joined, "_scores", lambda _: row)
    chosen = joined.choose("any")
    assert chosen == RoutedTask("new", "mood", pytest.approx(0.63, abs=0.01))
    first, second, third = joined.route("any")[:3]
    assert (first.cluster, second.cluster, third.cluster) == ("new", "old", "x")
    assert first.probability < third.probability < chosen.probability


def test_a_check_and_the_command_are_as_sure_as_the_choice(tmp_path, routers, capsys):
    record = Record("mood", "mood", NEW["mood"], "无")
    report = check(
        {"old": routers["first"], "new": routers["first"], "x": routers["first"]}, [record]
    )
    assert (report["sure"]["sure"], report["task"]["right"]) == (1, 1)
    words = ["router", "route", NEW["mood"]]
    for name in ("a", "b", "c"):
        words += ["--adapter", str(saved(tmp_path / name, router=routers["first"]))]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "not sure" not in printed
    assert printed.splitlines()[0].split("  ")[1:] == ["mood", "(a)"]


def test_prompts_that_recur_count_once():
    twice = TaskRouter.fit({"mood": PROMPTS["mood"] * 2})
    assert np.array_equal(twice.usual, fitted("mood").usual)


def test_a_task_with_a_single_prompt_is_found():
    few = TaskRouter.fit({task: PROMPTS[task][:1] for task in FIRST})
    assert JoinedRouter({"few": few}).route(NEW["names"])[0].task == "names"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "no task to fit"),
        ({"names": ["找人名"], "mood": []}, r"none of \['mood'\]"),
        ({"names": [" \n"]}, r"none of \['names'\]"),
    ],
)
def test_what_a_router_cannot_be_fitted_on_is_said(prompts, message):
    with pytest.raises(DataError, match=message):
        TaskRouter.fit(prompts)


def test_an_empty_prompt_is_refused(joined):
    with pytest.raises(DataError, match="empty prompt"):
        joined.route(" \n")


def test_no_router_at_all_asks_for_the_task():
    with pytest.raises(ConfigError, match="name the task"):
        JoinedRouter({})


# Files ------------------------------------------------------------------------------------


def test_a_router_comes_back_from_its_adapters_folder(tmp_path, routers):
    folder = saved(tmp_path / "a")
    with pytest.raises(AdapterError, match=r"has no router.*router fit"):
        TaskRouter.load(folder)
    before, _ = read_manifest(folder)
    manifest = routers["first"].save(folder, {"train": {"records": 3}})
    assert manifest == read_manifest(folder)[0]
    assert manifest["router"] == {"train": {"records": 3}}
    assert manifest["files"].pop(ROUTER_FILE)["sha256"] == sha256_file(folder / ROUTER_FILE)
    assert {k: v for k, v in manifest.items() if k != "router"} == before
    loaded = TaskRouter.load(folder)
    assert loaded.to_bytes() == routers["first"].to_bytes()
    assert JoinedRouter({"a": loaded}).choose(NEW["mood"]).task == "mood"
    fitted(*FIRST[::-1]).save(folder)  # a later one takes its place
    assert TaskRouter.load(folder).tasks == FIRST[::-1]


def test_an_adapter_carries_its_router_from_folder_to_folder(tmp_path, routers):
    folder = saved(tmp_path / "a", router=routers["first"])
    adapter = Adapter.load(folder, make_model())
    assert TaskRouter.of(adapter.files, FIRST, "a") is not None
    adapter.save(tmp_path / "b")
    assert sha256_file(folder / ROUTER_FILE) == sha256_file(tmp_path / "b" / ROUTER_FILE)
    adapter.files = {}
    adapter.save(tmp_path / "b")
    assert not (tmp_path / "b" / ROUTER_FILE).exists()
    assert not Adapter.load(tmp_path / "b", make_model()).files


def test_an_adapter_that_is_trained_gets_a_router_of_its_records(tmp_path):
    backbone = make_backbone()
    some = [Record(task, task, own, "无") for task in FIRST for own in PROMPTS[task][:20]]
    adapter = Adapter.attach(backbone, AdapterConfig(FIRST))
    settings = TrainingSettings(epochs=1, batch_size=20, records_per_task=10, evaluations=1)
    train(adapter, backbone.tokenizer, some, some[::10], settings, tmp_path, progress=print)
    expected = TaskRouter.fit({task: PROMPTS[task][:20] for task in FIRST})
    assert TaskRouter.load(tmp_path / "adapter").to_bytes() == expected.to_bytes()


def test_a_router_of_other_tasks_is_refused(tmp_path, routers):
    folder = saved(tmp_path / "a")
    with pytest.raises(AdapterError, match="fit the router on prompts of the adapter's tasks"):
        routers["second"].save(folder)
    clusters = Clusters(make_backbone())
    with pytest.raises(AdapterError, match="fit the router"):
        clusters.add("b", saved(tmp_path / "b", router=routers["second"]))
    assert not clusters.adapters


def rewrite(folder: Path, **changes: object) -> None:
    """Another router's file, with the hash that belongs to it."""
    path = folder / ROUTER_FILE
    about = {"format": 1, "tasks": list(FIRST), **changes}
    save_file(load_file(path), path, metadata={"router": json.dumps(about)})
    manifest = read_sealed(folder / "manifest.json")
    manifest["files"][ROUTER_FILE]["sha256"] = sha256_file(path)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / ROUTER_FILE).unlink(), "damaged or missing"),
        (lambda f: (f / ROUTER_FILE).write_bytes(b"no tensors here"), "damaged or missing"),
        (lambda f: rewrite(f, format=99), "format 99, this version reads 1"),
        (lambda f: rewrite(f, tasks=["names"]), "fit anew"),
        (lambda f: rewrite(f, tasks=["names", "names"]), "fit anew"),
        (lambda f: rewrite(f, tasks=5), "is damaged"),
        (lambda f: rewrite(f, tasks=["names", "other"]), "fit the router"),
    ],
    ids=["missing", "no tensors", "newer", "too few tasks", "twice", "no list", "other tasks"],
)
def test_a_damaged_router_is_noticed(tmp_path, routers, damage, message):
    folder = saved(tmp_path / "a", router=routers["first"])
    damage(folder)
    with pytest.raises(AdapterError, match=message):
        TaskRouter.load(folder)
    clusters = Clusters(make_backbone())
    with pytest.raises(AdapterError, match=message):
        clusters.add("a", folder)
    assert not clusters.adapters


# How good it is ---------------------------------------------------------------------------


def records(**prompts: str) -> list[Record]:
    return [Record(task, task, prompt, "无") for task, prompt in prompts.items()]


def test_a_check_counts_tasks_clusters_and_what_is_foreign(routers):
    swapped = records(names=NEW["mood"], mood=NEW["mood"], couplet=NEW["couplet"], other=FOREIGN)
    copied = Record("copy", "other", NEW["intent"], "无")
    report = check(routers, [*swapped, copied])
    assert (report["task"]["right"], report["task"]["records"]) == (2, 3)
    assert report["cluster"]["right"] == 3  # names and mood are of one cluster
    assert report["sure"] == {
        "from": SURE,
        "records": 3,
        "sure": 3,
        "share": 1.0,
        "interval": [0.4385, 1.0],
    }
    assert report["confusions"] == [{"task": "names", "as": "mood", "of": "first", "records": 1}]
    assert report["tasks"]["names"] == {"records": 1, "right": 0, "sure": 1}
    others = report["other tasks"]
    assert (others["records"], others["sure"]) == (2, 1)
    assert others["taken as"] == [{"task": "other", "as": "intent", "of": "second", "records": 1}]


def test_a_check_needs_records(routers):
    with pytest.raises(DataError, match="no record"):
        check(routers, [])


# The command line -------------------------------------------------------------------------


def test_a_router_is_fitted_checked_and_asked_from_the_command_line(tmp_path, capsys):
    folders = [saved(tmp_path / "first"), saved(tmp_path / "second", SECOND)]
    annotate(folders[0], {"classification": {"kept": True}})
    data = jsonl(tmp_path / "train.jsonl", PROMPTS)
    test = jsonl(tmp_path / "test.jsonl", {task: [prompt] for task, prompt in NEW.items()})
    both = [word for folder in folders for word in ("--adapter", str(folder))]
    fit = ["router", "fit", *both, "--data", str(data), "--dev", str(test)]
    assert main(fit) == 0
    assert "2 tasks, 120 prompts" in capsys.readouterr().out
    out = tmp_path / "report.json"
    ask = ["router", "check", *both, "--data", str(test), "--write", "--out", str(out)]
    assert main([*ask, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert (report["task"]["right"], report["cluster"]["right"]) == (4, 4)
    manifest, _ = read_manifest(folders[0])
    assert manifest["classification"] == {"kept": True}
    assert manifest["router"]["train"]["records"] == 120
    assert manifest["router"]["test"]["task"]["records"] == 2
    assert manifest["router"]["dev"]["data"] == manifest["router"]["test"]["data"]
    assert main(["router", "check", *both[:2], "--data", str(test)]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 prompts" in printed
    assert "0 of 2 prompts" in printed  # those of the other cluster's tasks
    assert report["alone"]["first"]["other tasks"]["sure"] == 0
    assert main(["router", "route", *both, NEW["couplet"]]) == 0
    assert "couplet  (second)" in capsys.readouterr().out.splitlines()[0]
    assert main(["router", "route", *both, FOREIGN]) == 0
    assert "not sure" in capsys.readouterr().out
    assert main(["router", "route", *both, "--json", NEW["names"]]) == 0
    assert json.loads(capsys.readouterr().out)[0]["task"] == "names"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fit", "--data", "few.jsonl"], 4, r"none of \['mood'\]"),
        (["check", "--data", "train.jsonl"], 5, "has no router"),
        (["route", "text"], 5, "has no router"),
        (["fit", "--data", "missing.jsonl"], 4, "cannot read"),
    ],
)
def test_what_the_command_cannot_do_is_said(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(Path("a"))
    jsonl(Path("train.jsonl"), PROMPTS)
    jsonl(Path("few.jsonl"), {"names": PROMPTS["names"]})
    assert main(["router", *words, "--adapter", "a"]) == code
    assert re.search(message, capsys.readouterr().err)
