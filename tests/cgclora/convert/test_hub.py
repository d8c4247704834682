"""Exports on the hub: pushed in one commit, with the owner's token, or not at all."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.convert.hub import PushError, push
from cgclora.models.backbone import load_backbone
from tests.helpers.hub import Hub, hub
from tests.helpers.reference import METHODS, scatter
from tests.helpers.tiny import save_backbone

TOKEN = "hf_onlyMineAndSecret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub() as found:
        found.accepted = {TOKEN}
        yield found


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder as exports are."""
    folder = tmp_path / "export"
    (folder / "NER").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"export": {}}')
    (folder / "README.md").write_text("---\nlicense: other\n---\n# NER\n")
    (folder / "NER" / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def commits(server: Hub) -> list[str]:
    return [one for one in server.requests if "/commit/" in one]


@pytest.mark.parametrize("repo", ["me/mine", "mine"])
def test_all_files_arrive_in_one_commit_in_a_repository_that_is_made(server, exported, repo):
    found = push(exported, repo, token=f" {TOKEN}\n", private=True, endpoint=server.address)
    assert found == f"{server.address}/me/mine"
    assert server.files == content(exported)
    assert server.private
    assert len(commits(server)) == 1


def test_an_older_export_is_replaced_whole(server, exported):
    hubs_own = {".gitattributes": b"x", ".eval_results/gsm8k.yaml": b"- value: 0.5"}
    server.files = {"manifest.json": b"{}", "summary/old.gguf": b"old", **hubs_own}
    assert push(exported, "mine", token=TOKEN, endpoint=server.address).endswith("/me/mine")
    assert server.files == {**content(exported), **hubs_own}
    assert len(commits(server)) == 1


def test_a_branch_is_made_and_named_in_the_address(server, exported):
    found = push(exported, "me/mine", token=TOKEN, revision="f16", endpoint=server.address)
    assert found.endswith("/me/mine/tree/f16")
    assert server.branches == ["f16"]
    assert commits(server) == ["POST /api/models/me/mine/commit/f16"]


def test_a_repository_that_holds_something_else_is_left_alone(server, exported):
    server.files = {"thesis.pdf": b"years of work"}
    with pytest.raises(PushError, match="holds something other than an export") as caught:
        push(exported, "me/mine", token=TOKEN, endpoint=server.address)
    assert caught.value.reason == "taken"
    assert server.files == {"thesis.pdf": b"years of work"}


def test_nothing_private_goes_into_a_public_repository(server, exported):
    server.files = {"manifest.json": b"{}"}
    with pytest.raises(PushError, match="is public") as caught:
        push(exported, "me/mine", token=TOKEN, private=True, endpoint=server.address)
    assert caught.value.reason == "public"
    assert server.files == {"manifest.json": b"{}"}


@pytest.mark.parametrize(
    ("repo", "token", "reason", "message"),
    [
        ("me/mine", "hf_somethingElse", "token", "does not know this token"),
        ("me/mine", "", "token", "there is no token"),
        ("me/mine", "hf_two words", "token", "no token of the hub"),
        ("me/mine", "hf_令牌", "token", "no token of the hub"),
        ("somebody/mine", TOKEN, "denied", "may not write to somebody/mine"),
        ("a/b/c", TOKEN, "name", "no name of a repository"),
        ("me/..", TOKEN, "name", "no name of a repository"),
    ],
)
def test_what_is_wrong_is_told_without_the_token(server, exported, repo, token, reason, message):
    with pytest.raises(PushError, match=message) as caught:
        push(exported, repo, token=token, endpoint=server.address)
    assert caught.value.reason == reason
    assert not token or token not in f"{caught.value!r} {caught.value}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert server.files is None


def test_a_repository_that_was_made_for_a_failed_upload_is_removed(server, exported, caplog):
    server.full = True
    with caplog.at_level(logging.DEBUG), pytest.raises(PushError, match="again later") as caught:
        push(exported, "me/mine", token=TOKEN, endpoint=server.address)
    assert caught.value.reason == "refused"
    assert "quota exceeded" in str(caught.value)
    assert server.files is None
    assert TOKEN not in caplog.text


def test_a_failed_upload_leaves_an_older_export_as_it_was(server, exported):
    server.files, server.full = {"manifest.json": b"{}"}, True
    with pytest.raises(PushError, match="try again later"):
        push(exported, "me/mine", token=TOKEN, endpoint=server.address)
    assert server.files == {"manifest.json": b"{}"}


def test_without_a_network_the_push_says_so(exported):
    with pytest.raises(PushError, match="check the network") as caught:
        push(exported, "me/mine", token=TOKEN, endpoint="http://127.0.0.1:9")
    assert caught.value.reason == "offline"


# The command line -------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    backbone = load_backbone(save_backbone(tmp_path / "backbone"), device="cpu")
    attached = scatter(Adapter.attach(backbone, METHODS["CGC-LoRA"]))
    measured = {
        "records": 200,
        "adapter": {"right": 154, "accuracy": 0.77, "interval": [0.70691, 0.82291]},
        "backbone": {"right": 40, "accuracy": 0.2, "interval": [0.15, 0.26]},
    }
    scores = {"classification": {"tasks": {"mood": measured, "names": measured}}}
    attached.save(tmp_path / "adapter", facts={"licence": "CC BY-NC 4.0", **scores})
    return tmp_path / "adapter"


def test_the_command_pushes_an_export_with_its_scores_and_terms(
    server, adapter, monkeypatch, capsys
):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    words = ["push", str(adapter), "me/mine", "--task", "mood", "--private", "--json"]
    assert main([*words, "--backbone", str(adapter.with_name("backbone"))]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["address"] == f"{server.address}/me/mine"
    assert TOKEN not in printed.out + printed.err
    assert "adapter_model.safetensors" in server.files
    card = server.files["README.md"].decode()
    assert "| mood | 0.770 (0.707-0.823) | 0.200 | 200 |" in card
    assert "| names |" not in card
    assert "**Licence:** CC BY-NC 4.0." in card


def test_the_command_ends_with_its_own_code(server, adapter, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("cgclora.convert.hub.get_token", lambda: None)
    words = ["push", str(adapter), "me/mine", "--backbone", str(adapter.with_name("backbone"))]
    assert main(words) == 8
    assert "hf auth login" in capsys.readouterr().err
