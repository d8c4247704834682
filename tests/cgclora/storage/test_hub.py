"""Adapters by hub id: fetched once, pinned, checked, and read as any folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import ModelCard

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig
from cgclora.convert.native import export_adapter
from cgclora.storage import hub as hub_module
from cgclora.storage.adapter_dir import AdapterError, annotate, read_manifest
from cgclora.storage.hub import adapter_folder, cluster_name, collected
from cgclora.training.add_task import drop_tasks
from tests.helpers.hub import Hub, only_hub
from tests.helpers.reference import scatter
from tests.helpers.tiny import make_backbone, save_backbone

TASKS = ("NER", "Summary")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter."""
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    adapter = Adapter.attach(make_backbone(), AdapterConfig(TASKS))
    scatter(adapter)
    adapter.save(folder, facts={"licence": "CC0-1.0"})
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Path) -> Iterator[Hub]:
    """A hub that holds the adapter, and files that are none of its business."""
    with only_hub(monkeypatch, tmp_path / "cache") as found:
        found.files = {path.name: path.read_bytes() for path in saved.iterdir()}
        found.files |= {"evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04."}
        yield found


def gone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub does not answer any more, to a new process."""
    server.down = True
    hub_module._download.cache_clear()


def test_an_adapter_is_fetched_by_its_id_and_is_what_was_pushed(server, saved):
    folder = adapter_folder("me/mine")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in saved.iterdir()
    )
    manifest, config = read_manifest(folder)
    assert config.tasks == TASKS
    assert manifest["hub"] == {"repo": "me/mine", "revision": server.revision}
    own, theirs = Adapter.load(saved, make_backbone()), Adapter.load("me/mine", make_backbone())
    assert theirs.name == "mine"
    assert theirs.manifest["hub"]["revision"] == server.revision
    ours = own.state_dict()
    assert all((ours[name] == tensor).all() for name, tensor in theirs.state_dict().items())


def test_what_was_fetched_once_needs_no_network(server, monkeypatch):
    first = adapter_folder("me/mine")
    pinned = f"me/mine@{server.revision}"
    gone(server, monkeypatch)
    assert adapter_folder("me/mine") == first
    asked = len(server.requests)
    assert adapter_folder(pinned) == first
    assert len(server.requests) == asked, "a commit cannot change"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_module._download.cache_clear()
    assert adapter_folder("me/mine") == first


def test_a_process_keeps_the_commit_that_it_began_with(server):
    first = adapter_folder("me/mine")
    assert server.files is not None
    server.files["README.md"] = b"new"
    assert adapter_folder("me/mine") == first
    hub_module._download.cache_clear()
    assert adapter_folder("me/mine") != first


def test_what_is_fetched_is_the_commit_whose_files_were_checked(server, saved):
    first = server.revision
    bloated = bytes(1000) + (saved / "adapter.safetensors").read_bytes()
    server.meanwhile = {**server.files, "adapter.safetensors": bloated}
    folder = adapter_folder("me/mine")
    assert server.revision != first, "a commit arrived in between"
    assert read_manifest(folder)[0]["hub"] == {"repo": "me/mine", "revision": first}
    for name in ("adapter.safetensors", "manifest.json"):
        assert (folder / name).read_bytes() == (saved / name).read_bytes()


def test_a_cached_branch_is_used_where_no_hub_answers(server, monkeypatch):
    first = adapter_folder("me/mine@dev")
    # Nothing listens there.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    hub_module._download.cache_clear()
    assert adapter_folder("me/mine@dev") == first
    with pytest.raises(AdapterError, match="the hub cannot be reached"):
        adapter_folder("me/mine@other")
    with pytest.raises(AdapterError, match="check network"):
        adapter_folder(f"me/mine@{'0' * 40}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AdapterError, match="unset HF_HUB_OFFLINE"):
        adapter_folder(f"me/mine@{'0' * 40}")


def test_what_is_not_there_or_no_adapter_is_said(server, monkeypatch):
    server.hidden = True
    with pytest.raises(AdapterError, match=r"neither a folder here nor an adapter on the hub.*hf"):
        adapter_folder("me/mine")
    server.hidden = False
    files = server.files
    server.files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}
    with pytest.raises(AdapterError, match="push --format cgclora"):
        adapter_folder("me/mine")
    assert files is not None
    server.files = files
    monkeypatch.setattr(hub_module, "_MOST_JSON", 100)
    with pytest.raises(AdapterError, match="nothing of the repository is downloaded"):
        adapter_folder("me/mine")
    assert not any("resolve" in one for one in server.requests)
    with pytest.raises(AdapterError, match="no such revision"):
        adapter_folder(f"me/mine@{'0' * 40}")
    gone(server, monkeypatch)
    with pytest.raises(AdapterError, match="the hub cannot be reached"):
        adapter_folder("me/mine@v1")


def test_damaged_files_are_noticed_as_in_a_folder(server):
    assert server.files is not None
    server.files["adapter.safetensors"] += b"\0"
    with pytest.raises(AdapterError, match="damaged"):
        Adapter.load("me/mine", make_backbone())


def test_a_folder_stays_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "mine").mkdir(parents=True)
    assert adapter_folder("me/mine") == Path("me/mine")
    for path in ("./runs/adapter", "runs/mine/adapter", "/nowhere/adapter", "../a/b", "adapter"):
        assert adapter_folder(path) == Path(path)
    assert cluster_name("runs/mine/adapter") == "mine"
    assert cluster_name("you/theirs@v1") == "theirs"


def test_a_cached_adapter_is_not_written_to(server, tmp_path):
    folder = adapter_folder("me/mine")
    with pytest.raises(AdapterError, match="copy"):
        annotate(folder, {"note": 1})
    smaller = drop_tasks("me/mine", ["NER"], tmp_path / "smaller")
    assert smaller["origin"]["hub"]["revision"] == server.revision
    assert "hub" not in smaller


def test_commands_take_ids(server, tmp_path, capsys):
    backbone = str(save_backbone(tmp_path / "backbone"))
    assert main(["inspect", f"me/mine@{server.revision}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["hub"]["repo"] == "me/mine"
    words = ["--adapter", "me/mine", "--backbone", backbone]
    assert main(["generate", *words, "--task", "NER", "--max-new-tokens", "2", "hi"]) == 0
    out = str(tmp_path / "peft")
    assert main(["export", *words, "--format", "peft", "--out", out]) == 0
    (origin,) = json.loads((tmp_path / "peft" / "manifest.json").read_text())["adapters"]
    assert origin["hub"] == {"repo": "me/mine", "revision": server.revision}
    capsys.readouterr()
    server.hidden = True
    assert main(["inspect", "me/mine@v2"]) == 5
    assert "neither a folder here nor an adapter" in capsys.readouterr().err


def test_a_list_of_adapters_is_a_folder_of_links(server, saved, tmp_path):
    run = tmp_path / "run" / "adapter"
    shutil.copytree(saved, run)
    into = collected(f"me/mine, {run}", tmp_path / "linked")
    assert sorted(path.name for path in into.iterdir()) == ["mine", "run"]
    assert read_manifest(into / "mine")[0]["hub"]["revision"] == server.revision
    again = collected("me/mine", tmp_path / "linked")
    assert [path.name for path in again.iterdir()] == ["mine"]
    assert collected(str(tmp_path), tmp_path / "unused") == tmp_path
    with pytest.raises(AdapterError, match="two adapters"):
        collected(f"{run},{run}", tmp_path / "linked")


def test_what_was_pushed_is_used_by_its_id(server, saved, monkeypatch):
    server.files = None
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert main(["push", str(saved), "me/mine", "--format", "cgclora"]) == 0
    assert set(server.files or ()) == {path.name for path in saved.iterdir()} | {"README.md"}
    manifest, config = read_manifest(adapter_folder("me/mine"))
    assert config == read_manifest(saved)[1]
    assert manifest["files"] == read_manifest(saved)[0]["files"]
    assert main(["push", str(saved), "me/mine", "--format", "cgclora", "--task", "NER"]) == 0
    hub_module._download.cache_clear()
    assert read_manifest(adapter_folder("me/mine"))[1].tasks == ("NER",)


def test_scores_of_the_manifest_are_evaluation_results(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "scored")
    scores = {"right": 77, "accuracy": 0.77, "interval": [0.68, 0.84]}
    bare = {"right": 10, "accuracy": 0.1, "interval": [0.05, 0.17]}
    of_task = {"records": 100, "adapter": scores, "backbone": bare}
    annotate(folder, {"classification": {"data": "ab" * 32, "tasks": {"NER": of_task}}})
    export_adapter(folder, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    (result,) = card.data.eval_results
    assert (result.task_name, result.metric_type, result.metric_value) == ("NER", "accuracy", 0.77)
    assert result.dataset_args == {"records": 100, "sha256": "ab" * 32}
    assert result.metric_args == {"confidence_interval_95": [0.68, 0.84]}
    assert "| NER | 0.770 (0.680-0.840) | 0.100 | 100 |" in card.text
    export_adapter(folder, tmp_path / "other", ["Summary"])
    assert ModelCard.load(tmp_path / "other" / "README.md").data.eval_results is None


def test_an_adapter_exported_as_itself_is_one_with_a_card(saved, tmp_path):
    whole = export_adapter(saved, tmp_path / "whole")
    assert whole["export"] == {"format": "cgclora", "tasks": [*TASKS], "rank": 12}
    assert read_manifest(tmp_path / "whole")[1].tasks == TASKS
    card = (tmp_path / "whole" / "README.md").read_text("utf-8")
    assert "library_name: cgclora" in card
    assert "CC0-1.0" in card
    part = export_adapter(saved, tmp_path / "part", ["Summary"])
    assert part["tasks"] == ["Summary"]
    assert export_adapter(saved, tmp_path / "part")["tasks"] == [*TASKS]  # replaces the older one
