"""1 + N: rows of any tasks of any clusters in one batch, clusters that come and go."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cgclora.inference.request
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.data.chat import encode_prompts
from cgclora.inference.batch import Batch
from cgclora.inference.engine import generate, stream
from cgclora.inference.merged_cache import FoldedWeights, folded_bytes
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request, encode_requests
from cgclora.inference.router import TaskRouter
from cgclora.layer import ExpertLinear
from cgclora.models.backbone import Backbone
from cgclora.storage.adapter_dir import AdapterError
from tests.helpers.reference import Operations, scatter
from tests.helpers.tiny import ARCHITECTURES, make_backbone

PROMPTS = ("今天天气很好", "头痛和发热是感冒的常见症状。", "The cat", "这句话说的是什么意思？")
CONFIGS = {
    "small": AdapterConfig(("a", "b"), common=2, expert_rank=2, embedding_size=4),
    "large": AdapterConfig(
        ("c", "d", "e"), common=3, specific=2, expert_rank=3, embedding_size=4, separator="\n答："
    ),
    "lora": AdapterConfig.lora(("f",), rank=5, target_modules=("q_proj", "down_proj")),
    "moe": AdapterConfig.moe_lora(("g", "h"), experts=4, rank=8, target_modules=("v_proj",)),
}


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A saved adapter of each config, its weights random, for the tiny qwen2 backbone."""
    backbone = make_backbone()
    for seed, (name, config) in enumerate(CONFIGS.items()):
        adapter = scatter(Adapter.attach(backbone, config, name=name), seed=seed)
        adapter.save(tmp_path / name)
        adapter.detach()
    return {name: tmp_path / name for name in CONFIGS}


def resident(backbone: Backbone, folders: dict[str, Path], **options: int) -> Clusters:
    clusters = Clusters(backbone, **options)
    for name, folder in folders.items():
        clusters.add(name, folder)
    return clusters


def every_task(tokens: int = 8) -> list[Request]:
    """A request of each task of each cluster, and the bare backbone, in a mixed order."""
    tasks: list[str | None] = [task for config in CONFIGS.values() for task in config.tasks]
    requests = [
        Request(task, PROMPTS[place % len(PROMPTS)], max_new_tokens=tokens)
        for place, task in enumerate([*tasks, None])
    ]
    return random.Random(0).sample(requests, len(requests))


def logits(backbone: Backbone, requests: list[Request], experts: Clusters | Adapter | None):
    encoded = encode_requests(backbone, requests, experts)
    return Batch(backbone, experts, requests, [one.ids for one in encoded]).prefill()


# Mixed batches ----------------------------------------------------------------------------


def test_a_batch_of_all_clusters_answers_as_each_adapter_alone(folders):
    backbone = make_backbone()
    together = logits(backbone, every_task(), resident(backbone, folders))
    for row, request in enumerate(every_task()):
        alone = make_backbone()
        adapter = next(
            (
                Adapter.load(folders[name], alone)
                for name, config in CONFIGS.items()
                if request.task in config.tasks
            ),
            None,
        )
        expected = logits(alone, [request], adapter)[0]
        torch.testing.assert_close(together[row], expected, rtol=1e-4, atol=1e-4)
    distinct = {tuple(row.argsort(descending=True)[:6].tolist()) for row in together}
    assert len(distinct) == len(together)


def test_whole_answers_of_a_mixed_batch_are_those_of_requests_one_by_one(folders):
    backbone = make_backbone()
    clusters = resident(backbone, folders)
    requests = every_task()
    mixed = [answer.text for answer in generate(backbone, requests, clusters)]
    assert mixed == [generate(backbone, [request], clusters)[0].text for request in requests]
    assert len(set(mixed)) > len(requests) // 2


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_two_clusters_share_a_batch_on_every_architecture(architecture):
    backbone = make_backbone(architecture)
    configs = [replace(CONFIGS["small"], tasks=tasks) for tasks in (("a", "b"), ("c", "d"))]
    adapters = [
        scatter(Adapter.attach(backbone, config, name=f"n{seed}"), seed)
        for seed, config in enumerate(configs)
    ]
    requests = [Request(task, PROMPTS[0]) for task in ("a", "d", "b", "c")]
    owners = [adapters[0], adapters[1], adapters[0], adapters[1]]
    expected = [logits(backbone, [r], owner)[0] for r, owner in zip(requests, owners, strict=True)]
    clusters = Clusters(backbone)
    for name, adapter in zip("xy", adapters, strict=True):
        clusters.add(name, adapter)
    found = logits(backbone, requests, clusters)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_task_of_two_clusters_is_the_one_that_the_request_names(folders):
    backbone = make_backbone()
    clusters = Clusters(backbone)
    clusters.add("first", folders["small"])
    second = clusters.add("second", folders["small"])
    with torch.no_grad():
        second.layers["model.layers.0.mlp.down_proj"].expert_B[second.name].neg_()
    asked = Request("a", PROMPTS[0])
    found = logits(
        backbone,
        [asked, replace(asked, cluster="second"), replace(asked, cluster="first")],
        clusters,
    )
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_gates_of_a_request_s_own_work_beside_other_clusters(folders):
    backbone = make_backbone()
    clusters = resident(backbone, folders)
    none = torch.zeros(CONFIGS["large"].num_experts)
    asked = Request("c", PROMPTS[1], gates=none)
    found = logits(backbone, [asked, Request("a", PROMPTS[0])], clusters)
    bare = Request(None, PROMPTS[1])
    prompts = encode_prompts([PROMPTS[1]], backbone.tokenizer, CONFIGS["large"].separator)
    expected = Batch(backbone, None, [bare], prompts).prefill()
    torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-4)


def test_the_number_of_products_does_not_grow_with_the_clusters():
    counts = []
    for number in (1, 2, 8):
        backbone = make_backbone("gemma3")
        clusters = Clusters(backbone)
        for place in range(number):
            config = replace(CONFIGS["small"], tasks=(f"t{place}",))
            adapter = scatter(Adapter.attach(backbone, config, name=f"n{place}"))
            clusters.add(str(place), adapter)
        requests = [Request(f"t{row % number}", PROMPTS[0]) for row in range(8)]
        prompts = encode_prompts([r.prompt for r in requests], backbone.tokenizer, "\n")
        batch = Batch(backbone, clusters, requests, prompts)
        with Operations() as operations:
            batch.prefill()
        counts.append((operations.products(), operations.count.total()))
    assert len(set(counts)) == 1


def test_experts_that_no_row_uses_are_left_out(folders):
    backbone = make_backbone()
    clusters = resident(backbone, folders)
    route = clusters.snapshot().plan_rows([Request("a", "x"), Request("c", "x")])
    config_a, config_c = CONFIGS["small"], CONFIGS["large"]
    for (experts,) in route.experts.values():
        assert experts.weights.shape == (2, 1, config_a.active_rank + config_c.active_rank)


def test_rows_without_experts_are_the_backbone_s_own(folders):
    backbone = make_backbone()
    clusters = resident(backbone, folders)
    none = torch.zeros(CONFIGS["small"].num_experts)
    rows = [Request(None, PROMPTS[0]), Request("a", PROMPTS[0], gates=none)]
    assert not clusters.snapshot().plan_rows(rows).experts
    expected = logits(make_backbone(), [Request(None, PROMPTS[0])] * 2, None)
    assert torch.equal(logits(backbone, rows, clusters), expected)


def test_what_a_task_computes_does_not_depend_on_who_is_resident(folders):
    backbone = make_backbone()
    clusters = Clusters(backbone)
    clusters.add("small", folders["small"])
    before = logits(backbone, [Request("b", PROMPTS[1])], clusters)
    for name in ("large", "lora", "moe"):
        clusters.add(name, folders[name])
    assert torch.equal(logits(backbone, [Request("b", PROMPTS[1])], clusters), before)


# Coming and going -------------------------------------------------------------------------


def under_way(folders):
    """Clusters with one resident, a request to it, its answer to come, and what that will say."""
    backbone = make_backbone()
    clusters = Clusters(backbone)
    clusters.add("small", folders["small"])
    request = Request("a", PROMPTS[0], max_new_tokens=24)
    expected = generate(backbone, [request], clusters)[0].text
    return clusters, request, stream(backbone, [request], clusters), expected


def test_clusters_come_and_go_without_touching_an_answer_on_its_way(folders):
    clusters, request, pieces, expected = under_way(folders)
    backbone = clusters.backbone
    text = next(pieces).text
    clusters.add("large", folders["large"])
    text += next(pieces).text
    clusters.remove("small")
    text += next(pieces).text
    clusters.remove("large")
    text += "".join(piece.text for piece in pieces)
    assert text == expected
    with pytest.raises(ConfigError, match=r"no cluster knows the task 'a'"):
        generate(backbone, [request], clusters)


def test_with_all_clusters_gone_the_backbone_answers_as_before(folders):
    backbone = make_backbone()
    bare = Request(None, PROMPTS[0])
    before = logits(backbone, [bare], None)
    clusters = resident(backbone, folders)
    for name in folders:
        clusters.remove(name)
    assert torch.equal(logits(backbone, [bare], clusters), before)
    assert not clusters.adapters
    clusters.add("again", folders["moe"])
    assert not torch.allclose(logits(backbone, [Request("g", PROMPTS[0])], clusters), before)


def test_clusters_that_do_not_fit_are_refused(folders, tmp_path):
    backbone = make_backbone()
    clusters = resident(backbone, folders)
    with pytest.raises(AdapterError, match=r"'small' is resident already"):
        clusters.add("small", folders["small"])
    with pytest.raises(AdapterError, match="holds no adapter"):
        clusters.add("other", tmp_path / "nothing")
    with pytest.raises(AdapterError, match="another backbone"):
        clusters.add("other", Adapter.attach(make_backbone(), CONFIGS["small"]))
    with pytest.raises(AdapterError, match="name is empty"):
        clusters.add("", folders["small"])
    with pytest.raises(AdapterError, match=r"'other' is resident already as 'small'"):
        clusters.add("other", clusters.adapters["small"])
    with pytest.raises(ConfigError, match=r"no cluster 'other', there are small, large"):
        clusters.remove("other")
    with pytest.raises(ConfigError, match=r"'small' does not know the task 'c'"):
        clusters.find("c", "small")
    with pytest.raises(ConfigError, match=r"no cluster 'other'"):
        clusters.find("c", "other")
    assert tuple(clusters.adapters) == tuple(folders)
    assert clusters.find("c") == "large"


def test_an_adapter_that_cannot_be_loaded_takes_nothing_from_an_answer_on_its_way(
    folders, monkeypatch
):
    clusters, _, pieces, expected = under_way(folders)
    text = next(pieces).text
    clusters.remove("small")

    def misfit(*_: object) -> None:
        raise AdapterError("shapes differ")

    monkeypatch.setattr(Adapter, "load_state_dict", misfit)
    with pytest.raises(AdapterError, match="shapes differ"):
        clusters.add("large", folders["large"])
    assert text + "".join(piece.text for piece in pieces) == expected


def test_an_adapter_that_finds_no_room_is_taken_off_again(folders, monkeypatch):
    backbone = make_backbone()
    clusters = Clusters(backbone)
    before = sum(parameter.numel() for parameter in backbone.model.parameters())

    def no_room(_: Adapter) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Adapter, "for_inference", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        clusters.add("small", folders["small"])
    assert sum(parameter.numel() for parameter in backbone.model.parameters()) == before
    assert not clusters.adapters


def test_a_batch_hears_of_one_adapter_even_if_another_takes_its_place_meanwhile(
    folders, tmp_path, monkeypatch
):
    backbone = make_backbone()
    other = scatter(Adapter.attach(backbone, replace(CONFIGS["small"], separator="\n答：")), seed=8)
    other.save(tmp_path / "other")
    other.detach()
    clusters = Clusters(backbone)
    clusters.add("small", folders["small"])
    request = Request("a", PROMPTS[0], max_new_tokens=8)
    expected = generate(backbone, [request], clusters)[0].text

    def replaced(*_: object) -> None:
        clusters.remove("small")
        clusters.add("small", tmp_path / "other")

    monkeypatch.setattr(
        cgclora.inference.request, "check_folded", replaced
    )  # between format and plan
    assert generate(backbone, [request], clusters)[0].text == expected
    monkeypatch.undo()
    assert generate(backbone, [request], clusters)[0].text != expected


def test_a_prompt_without_a_task_finds_it_in_the_cluster_that_has_it(folders):
    backbone = make_backbone()
    clusters = Clusters(backbone)
    with pytest.raises(ConfigError, match="router fit"):
        clusters.choose("今天天气很好")
    kinds = {
        "a": "请把下面的句子译成英文：",
        "b": "请写一首关于秋天的诗：",
        "c": "选出情感：",
        "d": "对联：",
    }
    things = [
        "今天天气很好",
        "头痛发热",
        "山高水长",
        "明月几时有",
        "我们去公园散步",
        "春风又绿江南岸",
    ]
    for name in ("small", "large"):
        tasks = CONFIGS[name].tasks
        own = {t: [kinds.get(t, "报告：") + thing for thing in things] for t in tasks}
        TaskRouter.fit(own).save(folders[name])
        clusters.add(name, folders[name])
    assert (clusters.choose(kinds["b"] + "落叶").cluster, clusters.choose(kinds["b"]).task) == (
        "small",
        "b",
    )
    assert clusters.choose(kinds["d"] + "落叶").cluster == "large"
    clusters.remove("large")
    assert clusters.choose(kinds["a"] + "落叶").task == "a"
    with pytest.raises(ConfigError, match="name a task"):
        clusters.choose("What is the capital of France?")


# Folded weights ---------------------------------------------------------------------------


def test_a_task_that_is_asked_for_again_and_again_is_folded_and_answers_the_same(folders):
    backbone = make_backbone()
    plain = resident(make_backbone(), folders)
    clusters = resident(backbone, folders, folded_budget=1 << 30)
    asked = [Request("c", PROMPTS[1])]
    expected = logits(plain.backbone, asked, plain)
    for time in range(6):
        found = logits(backbone, asked, clusters)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert bool(clusters.folded.keys) == (time >= 3)
    route = clusters.snapshot().plan_rows(asked)
    assert all(isinstance(part, torch.Tensor) for part in route.experts.values())
    # Others are answered as ever, beside it too.
    mixed = [Request("a", PROMPTS[0]), *asked, Request(None, PROMPTS[0])]
    torch.testing.assert_close(
        logits(backbone, mixed, clusters),
        logits(plain.backbone, mixed, plain),
        rtol=1e-4,
        atol=1e-4,
    )


def test_folded_weights_stay_within_their_budget_and_the_least_used_goes(folders):
    backbone = make_backbone()
    adapter = Adapter.load(folders["large"], backbone).for_inference()
    size = folded_bytes(adapter)
    linear = [m for m in backbone.model.modules() if isinstance(m, ExpertLinear)]
    assert size == sum(4 * m.base_layer.weight.numel() for m in linear)
    folded = FoldedWeights(2 * size, min_batches=1)
    for task in ("c", "d", "c", "e"):
        assert folded.route(adapter, task) is not None
        assert folded.bytes <= 2 * size
    assert [task for _, task in folded.keys] == ["c", "e"]
    folded.remove(adapter)
    assert folded.bytes == 0
    assert FoldedWeights(size - 1, min_batches=1).route(adapter, "c") is None


def test_a_folded_task_leaves_with_its_cluster(folders):
    backbone = make_backbone()
    clusters = resident(backbone, folders, folded_budget=1 << 30)
    for _ in range(4):
        clusters.snapshot().plan_rows([Request("a", "x")])
    assert len(clusters.folded.keys) == 1
    clusters.remove("small")
    assert not clusters.folded.keys


def test_tasks_that_take_turns_do_not_fold_each_other_out(folders):
    adapter = Adapter.load(folders["large"], make_backbone()).for_inference()
    folded = FoldedWeights(folded_bytes(adapter), min_batches=2)
    for _ in range(5):
        for task in ("c", "d"):
            folded.route(adapter, task)
    assert [task for _, task in folded.keys] == ["c"]
    folded.route(adapter, "d")
    assert [task for _, task in folded.keys] == ["d"]  # the second since c was last asked for


def test_without_memory_for_a_copy_a_batch_is_answered_without_it(folders, monkeypatch):
    adapter = Adapter.load(folders["large"], make_backbone()).for_inference()
    folded = FoldedWeights(1 << 30, min_batches=1)

    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Adapter, "folded_weights", no_room)
        assert folded.route(adapter, "c") is None
    assert folded.route(adapter, "c") is not None


def test_a_copy_that_is_being_made_keeps_nobody_from_those_that_are_kept(folders, monkeypatch):
    adapter = Adapter.load(folders["large"], make_backbone()).for_inference()
    folded = FoldedWeights(1 << 30, min_batches=1)
    kept = folded.route(adapter, "c")
    fold = Adapter.folded_weights

    def meanwhile(adapter: Adapter, task: str) -> dict[ExpertLinear, torch.Tensor]:
        assert others.submit(folded.route, adapter, "c").result(timeout=10) is kept
        assert others.submit(folded.route, adapter, "e").result(timeout=10) is None
        return fold(adapter, task)

    monkeypatch.setattr(Adapter, "folded_weights", meanwhile)
    with ThreadPoolExecutor(1) as others:
        assert folded.route(adapter, "d") is not None


def test_a_copy_of_an_adapter_that_leaves_while_it_is_made_is_not_kept(folders, monkeypatch):
    clusters = resident(make_backbone(), folders, folded_budget=1 << 30)
    clusters.folded.min_batches = 1
    before, asked = clusters.snapshot(), [Request("a", "x")]
    fold = Adapter.folded_weights

    def late(adapter: Adapter, task: str) -> dict[ExpertLinear, torch.Tensor]:
        weights = fold(adapter, task)
        clusters.remove("small")
        return weights

    monkeypatch.setattr(Adapter, "folded_weights", late)
    assert before.plan_rows(asked).experts
    monkeypatch.undo()
    assert before.plan_rows(asked).experts  # not folded, from the experts that it still has
    assert not clusters.folded.keys


def test_an_adapter_that_is_detached_before_its_copy_is_made_answers_without(folders, monkeypatch):
    clusters = resident(make_backbone(), folders, folded_budget=1 << 30)
    clusters.folded.min_batches = 1
    fold = Adapter.folded_weights

    def late(adapter: Adapter, task: str) -> dict[ExpertLinear, torch.Tensor]:
        clusters.remove("small")
        return fold(adapter, task)

    monkeypatch.setattr(Adapter, "folded_weights", late)
    assert clusters.snapshot().plan_rows([Request("a", "x")]).experts
    assert not clusters.folded.keys


def test_an_adapter_by_itself_answers_whatever_cluster_a_request_names(folders):
    backbone = make_backbone()
    adapter = Adapter.load(folders["small"], backbone)
    plain, named = (Request("a", PROMPTS[0], cluster=name) for name in (None, "medical"))
    first, second = generate(backbone, [plain, named], adapter)
    assert first.text == second.text
