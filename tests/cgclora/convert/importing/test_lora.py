"""LoRAs that PEFT saved, as adapters: the same function, and what several begin with together."""

import dataclasses
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import ConfigError
from cgclora.convert.importing.lora import import_peft, upcycle
from cgclora.convert.importing.peft import PEFT_CONFIG, PEFT_WEIGHTS, read_peft
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.models.backbone import load_backbone
from cgclora.storage.adapter_dir import MANIFEST_FILE, AdapterError, read_manifest
from tests.helpers.reference import METHODS, logits, scatter, token_ids
from tests.helpers.tiny import make_backbone, make_model, save_backbone

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
EXACT = {"rtol": 1e-5, "atol": 1e-6}
IDS = token_ids(2)
ATTENTION = ["q_proj", "v_proj"]


def saved_by_peft(folder: Path, *, seed: int = 0, architecture: str = "qwen2", **settings) -> Path:
    """A LoRA with random weights, written by PEFT itself."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(make_model(architecture), LoraConfig(**{**options, **settings}))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def in_peft(folder: Path, architecture: str = "qwen2") -> Tensor:
    return logits(PeftModel.from_pretrained(make_model(architecture), folder).eval(), IDS)


def routed(adapter: Adapter, task: str) -> Tensor:
    with adapter.route([task] * len(IDS)):
        return logits(adapter.model, IDS)


def peft_update(folder: Path, path: str) -> Tensor:
    """alpha / r * B A of one layer from the files alone, [out, in]; zero where there is none."""
    config = json.loads((folder / PEFT_CONFIG).read_text())
    tensors = load_file(folder / PEFT_WEIGHTS)
    if f"base_model.model.{path}.lora_A.weight" not in tensors:
        return torch.zeros(())
    A, B = (tensors[f"base_model.model.{path}.lora_{letter}.weight"] for letter in "AB")
    return config["lora_alpha"] / config["r"] * (B @ A)


def updates(adapter: Adapter, task: str) -> dict[str, Tensor]:
    """What each layer adds to its frozen weight."""
    weights = adapter.rank_weights(task)
    return {
        path: layer.update(adapter.name, row).detach()
        for (path, layer), row in zip(adapter.layers.items(), weights, strict=True)
    }


# One LoRA ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_an_imported_lora_gives_pefts_logits_for_every_task(tmp_path, dropout):
    folder = saved_by_peft(tmp_path / "lora", lora_dropout=dropout)
    adapter = import_peft(folder, make_backbone(), ["one", "two"])
    for task in ("one", "two"):
        torch.testing.assert_close(routed(adapter, task), in_peft(folder), **CLOSE)
    assert adapter.config.dropout == dropout
    assert adapter.config.gate == "none"


@pytest.mark.parametrize("architecture", ["gemma3", "gpt_neox"])
def test_other_backbones_too(tmp_path, architecture):
    folder = saved_by_peft(tmp_path / "x", architecture=architecture, target_modules="all-linear")
    adapter = import_peft(folder, make_backbone(architecture), ["one"])
    torch.testing.assert_close(routed(adapter, "one"), in_peft(folder, architecture), **CLOSE)
    assert adapter.config.target_modules is None


def test_a_plain_lora_comes_as_it_was_stored(tmp_path):
    folder = saved_by_peft(tmp_path / "lora")
    adapter = import_peft(folder, make_backbone(), ["one"])
    stored = load_file(folder / PEFT_WEIGHTS)
    assert len(stored) == 2 * len(adapter.layers)
    for path, layer in adapter.layers.items():
        prefix = f"base_model.model.{path}"
        assert torch.equal(layer.expert_A["default"], stored[f"{prefix}.lora_A.weight"])
        assert torch.equal(layer.expert_B["default"], stored[f"{prefix}.lora_B.weight"])
    config = adapter.config
    assert (config.alpha, config.expert_rank, config.target_modules) == (6.0, 4, tuple(ATTENTION))
    assert config.start == "tokenizer"


@pytest.mark.parametrize("start", ["tokenizer", "bos"])
def test_a_task_goes_out_and_comes_back(tmp_path, start):
    config = dataclasses.replace(METHODS["CGC-LoRA"], start=start)
    adapter = scatter(Adapter.attach(make_backbone(), config))
    adapter.save(tmp_path / "adapter", facts={"licence": "CC0"})
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    export_peft(source, tmp_path / "peft", ["mood"])
    back = import_peft(tmp_path / "peft", make_backbone(), ["mood"])
    torch.testing.assert_close(routed(back, "mood"), routed(adapter, "mood"), **CLOSE)
    lora = read_peft(tmp_path / "peft")
    assert (lora.licence, lora.separator) == ("CC0", "\n")
    assert back.config.start == start
    manifest = json.loads((tmp_path / "peft" / MANIFEST_FILE).read_text(encoding="utf-8"))
    del manifest["start"]  # as exports were when all adapters were trained so
    (tmp_path / "peft" / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    assert import_peft(tmp_path / "peft", make_backbone(), ["mood"]).config.start == "bos"


# Several ----------------------------------------------------------------------------------


def three_loras(tmp_path: Path) -> list[Path]:
    """Of other ranks, scales and layers each."""
    return [
        saved_by_peft(tmp_path / "a", seed=1, r=4, lora_alpha=8),
        saved_by_peft(tmp_path / "b", seed=2, r=2, lora_alpha=3, target_modules=["q_proj"]),
        saved_by_peft(tmp_path / "c", seed=3, r=3, lora_alpha=1, target_modules=["down_proj"]),
    ]


@pytest.mark.parametrize("expert_rank", [None, 1, 3])
@pytest.mark.parametrize("fresh", [0, 2])
def test_with_loras_of_their_own_tasks_begin_as_these_did(tmp_path, expert_rank, fresh):
    a, b, c = three_loras(tmp_path)
    own = {"one": a, "two": b}
    adapter = upcycle(own, make_backbone(), common=[c], fresh=fresh, expert_rank=expert_rank)
    for task, folder in own.items():
        for path, found in updates(adapter, task).items():
            expected = peft_update(folder, path) + peft_update(c, path)
            torch.testing.assert_close(found, expected.expand_as(found), **EXACT)
    alone = upcycle(own, make_backbone(), fresh=fresh, expert_rank=expert_rank)
    for task, folder in own.items():
        torch.testing.assert_close(routed(alone, task), in_peft(folder), **CLOSE)


@pytest.mark.parametrize("expert_rank", [None, 1, 3])
def test_common_loras_begin_as_their_mean(tmp_path, expert_rank):
    folders = three_loras(tmp_path)
    adapter = upcycle(
        {}, make_backbone(), common=folders, tasks=["one", "two"], expert_rank=expert_rank
    )
    assert adapter.config.specific == 0
    for task in ("one", "two"):
        for path, found in updates(adapter, task).items():
            expected = sum(peft_update(folder, path) for folder in folders) / 3
            torch.testing.assert_close(found, expected, **EXACT)


def test_experts_have_the_wanted_rank_and_number(tmp_path):
    a, b, c = three_loras(tmp_path)
    adapter = upcycle({"one": a, "two": b}, make_backbone(), common=[c], fresh=1, expert_rank=2)
    config = adapter.config
    assert (config.common, config.specific, config.expert_rank) == (2 + 1, 2, 2)
    assert sorted(config.target_modules) == ["down_proj", "q_proj", "v_proj"]


def test_what_is_padded_can_learn(tmp_path):
    a, b, _ = three_loras(tmp_path)
    adapter = upcycle({"one": a, "two": b}, make_backbone(), fresh=1)
    with adapter.route(["one", "two"]):
        adapter.model(input_ids=IDS).logits.square().mean().backward()
    for layer in adapter.layers.values():
        A, B = layer.expert_A["default"].grad, layer.expert_B["default"].grad
        still = (A == 0).all(1) & (B == 0).all(0)
        assert not still.any()


def test_an_upcycled_adapter_trains(tmp_path):
    a, b, _ = three_loras(tmp_path)
    adapter = upcycle({"one": a, "two": b}, make_backbone(), fresh=1)
    parameters = [parameter for _, parameter in adapter.named_parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    losses = []
    for _ in range(12):
        with adapter.route(["one", "two"]):
            found = adapter.model(input_ids=IDS).logits[:, :-1]
            loss = F.cross_entropy(found.flatten(0, 1), IDS[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(later < earlier for earlier, later in pairwise(losses[::3]))


# What is refused --------------------------------------------------------------------------


def broken(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "PEFT type 'IA3'"),
        ({"lora_alpha": None}, "damaged"),
        ({"lora_alpha": 0}, "not positive"),
        ({"alpha_pattern": {"(": 1}}, "damaged"),
        ({"alpha_pattern": [1]}, "adapter_config.json is damaged.*alpha_pattern is"),
    ],
)
def test_a_config_that_is_damaged_or_of_no_lora_is_refused(tmp_path, changes, message):
    folder = broken(saved_by_peft(tmp_path / "lora"), **changes)
    with pytest.raises(AdapterError, match=message):
        read_peft(folder)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_loras_of_embeddings_and_output_head_are_refused(tmp_path, target):
    folder = saved_by_peft(tmp_path / "lora", architecture="llama", target_modules=[target])
    with pytest.raises(AdapterError, match=r"not A or B of a linear layer|not among the linear"):
        import_peft(folder, make_backbone("llama"), ["one"])


def test_damage_and_pickle_are_refused(tmp_path):
    with pytest.raises(AdapterError, match="holds no PEFT adapter"):
        read_peft(tmp_path)
    folder = saved_by_peft(tmp_path / "lora")
    tensors = load_file(folder / PEFT_WEIGHTS)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, folder / PEFT_WEIGHTS)
    with pytest.raises(AdapterError, match="do not fit together"):
        read_peft(folder)
    empty = {
        name: tensor[:0] if "lora_A" in name else tensor[:, :0].contiguous()
        for name, tensor in load_file(saved_by_peft(folder) / PEFT_WEIGHTS).items()
    }
    save_file(empty, folder / PEFT_WEIGHTS)
    with pytest.raises(AdapterError, match="has rank 0"):
        read_peft(folder)
    (folder / PEFT_WEIGHTS).write_bytes(b"x" * 99)
    with pytest.raises(AdapterError, match="is damaged"):
        read_peft(folder)
    (folder / PEFT_WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="never read"):
        read_peft(folder)


@pytest.mark.parametrize(
    "text",
    ["{", '"an export"', '{"export": {}, "separator": 1}', '{"export": {}, "licence": ["CC0"]}'],
)
def test_a_damaged_manifest_beside_a_lora_is_refused(tmp_path, text):
    folder = saved_by_peft(tmp_path / "lora")
    (folder / MANIFEST_FILE).write_text(text)
    with pytest.raises(AdapterError, match=rf"{MANIFEST_FILE} is damaged"):
        read_peft(folder)


def test_a_manifest_that_somebody_else_wrote_says_nothing(tmp_path):
    folder = saved_by_peft(tmp_path / "lora")
    (folder / MANIFEST_FILE).write_text('{"separator": 1, "licence": "CC0"}')
    lora = read_peft(folder)
    assert (lora.separator, lora.licence) == (None, None)


def test_another_backbone_is_refused_and_left_bare(tmp_path):
    folder = saved_by_peft(tmp_path / "lora")
    with pytest.raises(AdapterError, match="not among the linear layers"):
        import_peft(folder, make_backbone("gpt_neox"), ["one"])
    tensors = load_file(folder / PEFT_WEIGHTS)
    narrow = {
        name: tensor[:, :8].contiguous() if "lora_A" in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(narrow, folder / PEFT_WEIGHTS)
    backbone = make_backbone()
    bare = backbone.model.state_dict().keys()
    with pytest.raises(AdapterError, match="from 8 to 32 features"):
        import_peft(folder, backbone, ["one"])
    assert backbone.model.state_dict().keys() == bare


def test_loras_and_tasks_must_go_together(tmp_path):
    folder = saved_by_peft(tmp_path / "lora")
    with pytest.raises(ConfigError, match="no LoRA"):
        upcycle({}, make_backbone(), tasks=["one"])
    with pytest.raises(ConfigError, match="name one for each"):
        upcycle({"one": folder}, make_backbone(), tasks=["two"])
    with pytest.raises(ConfigError, match="tasks must be"):
        upcycle({}, make_backbone(), common=[folder])


# The command line -------------------------------------------------------------------------


@pytest.fixture
def importing(tmp_path: Path) -> list[str]:
    save_backbone(tmp_path / "backbone")
    for seed, name in enumerate(("a", "b")):
        saved_by_peft(tmp_path / name, seed=seed)
    return ["import", "--backbone", str(tmp_path / "backbone"), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("words", "method", "sizes"),
    [
        (["--peft", "a"], "lora", (1, 0, 4)),
        (["--peft", "a", "--peft", "b", "--licence", "CC0"], "cgc-lora", (1, 1, 4)),
        (["--peft", "a", "--task", "x", "--method", "cgc-lora", "--common-peft", "b"],
         "cgc-lora", (1, 1, 4)),
        (["--peft", "a", "--peft", "b", "--task", "x", "--method", "moe-lora", "--expert-rank",
          "2", "--half"], "moe-lora", (4, 0, 2)),
    ],
)  # fmt: skip
def test_the_command_imports(tmp_path, importing, capsys, monkeypatch, words, method, sizes):
    opened = Counter[str]()
    monkeypatch.setattr(
        "cgclora.convert.importing.peft.load_file",
        lambda path: opened.update([path.parent.name]) or load_file(path),
    )
    words = [str(tmp_path / word) if word in {"a", "b"} else word for word in words]
    assert main([*importing, *words, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["method"] == method
    assert [facts["name"] for facts in manifest["imported"]] == ["a", "b"][: words.count("--peft")
        + words.count("--common-peft")]  # fmt: skip
    assert opened == Counter(facts["name"] for facts in manifest["imported"])  # once each
    stored, config = read_manifest(tmp_path / "out")
    assert stored == manifest
    assert (config.common, config.specific, config.expert_rank) == sizes
    backbone = load_backbone(tmp_path / "backbone", device="cpu", dtype="float32")
    assert Adapter.load(tmp_path / "out", backbone).config == config


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--peft", "a", "--peft", "b", "--method", "lora"], 2, "takes one LoRA"),
        (["--peft", "a", "--peft", "b", "--task", "x"], 2, "name one for each"),
        (["--peft", "a", "--peft", "b", "--task", "x", "--task", "x"], 2, "names a task twice"),
        (["--peft", "a", "--common-peft", "b"], 2, "needs --method cgc-lora"),
        (["--peft", "a", "--common", "2"], 2, "need --method"),
        (["--peft", "a", "--method", "cgc-lora", "--common", "-1"], 2, "--common must be"),
        (["--peft", "nowhere"], 5, "holds no PEFT adapter"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, importing, capsys, words, code, message):
    places = {"a", "b", "nowhere"}
    words = [str(tmp_path / word) if word in places else word for word in words]
    assert main([*importing, *words]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
