"""Members that are differences to whole weights and biases: what they compute, what is stored, what is refused."""

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task
from peft import get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import layer_norm, linear
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, export, predict, union
from hf_lifelong.adapter import close_task, drift_modules, open_task, take_snapshot
from hf_lifelong.adapter.forward.context import Context
from hf_lifelong.adapter.full_rank import FullLayer
from hf_lifelong.memory import estimate_memory
from hf_lifelong.storage import task_bytes

ALONE = 1e-5


@pytest.fixture
def make_full(make_model):
    return lambda *args, **config: make_model(*args, r="full", **config)


def layers_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, FullLayer)}


def test_all_linear_layers_and_norms_above_the_trunk_have_members(make_full):
    model = make_full(tasks=("films",))
    kinds = {type(layer.base_layer).__name__ for layer in layers_of(model).values()}
    assert kinds == {"Linear", "LayerNorm"}
    assert all(".layer.2." in name or ".layer.3." in name for name in layers_of(model))
    only = make_full(tasks=(), target_modules="all-linear")
    assert {type(layer.base_layer).__name__ for layer in layers_of(only).values()} == {"Linear"}
    some = make_full(tasks=(), target_modules=["LayerNorm"])
    assert {type(layer.base_layer).__name__ for layer in layers_of(some).values()} == {"LayerNorm"}


def test_merged_answer_equals_a_base_with_the_mean_difference_in_its_weights(make_full, tiny_folder, batch):
    model = make_full(tasks=("films", "news"))
    expected, stored = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32), tensors_of(model)
    for name, module in expected.named_modules():
        if f"{name}.drift_bank_full" in stored:
            mean = stored[f"{name}.drift_bank_full"][2:].mean(0)  # members of the second task
            module.weight.data += mean[:, :-1].view_as(module.weight)
            module.bias.data += mean[:, -1]
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        hidden = (expected(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    weight = stored["lifelong.drift_bank_head_weight"][4:].view(2, 3, -1).mean(0)
    bias = stored["lifelong.drift_bank_head_bias"][4:].view(2, 3).mean(0)
    answer = predict(model, batch, policy="oracle", group="news")
    scores = linear(hidden, weight, bias).softmax(-1)
    torch.testing.assert_close(answer.scores[:, 0], scores, rtol=0, atol=ALONE)


@pytest.mark.parametrize("answer", ["merged", "ensemble"])
@pytest.mark.parametrize("config", [{}, {"resident_groups": 2}])
def test_rows_of_different_groups_answer_as_alone(answer, config, make_full, batch):
    model = make_full(**config)
    groups = torch.arange(len(TASKS))
    together = predict(model, batch, "oracle", groups, answer=answer)
    for i in range(len(TASKS)):
        row = {k: v[i : i + 1] for k, v in batch.items()}
        alone = predict(model, row, "oracle", groups[i : i + 1], answer=answer)
        width = alone.scores.shape[-1]
        tokens = min(alone.scores.shape[1], together.scores.shape[1])
        expected = together.scores[i : i + 1, :tokens, :width]
        torch.testing.assert_close(alone.scores[:, :tokens], expected, rtol=0, atol=ALONE)
    answers_equal(predict(model, batch, policy="uncertainty"), predict(make_full(), batch, policy="uncertainty"))


def test_each_block_of_rows_has_its_own_weights_in_a_norm_and_a_linear_layer():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, 4, 5), torch.randn(3, 5, 1), torch.randn(3, 5)
    norm = FullLayer(torch.nn.LayerNorm(5), Context())
    found = norm._run(x, weight, bias)
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(found[rows], layer_norm(x[rows], (5,), weight[i, :, 0], bias[i]))
    weight, bias = torch.randn(3, 7, 5), torch.randn(3, 7)
    found = FullLayer(torch.nn.Linear(5, 7), Context())._run(x, weight, bias)
    for i in range(3):
        rows = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(found[rows], linear(x[rows], weight[i], bias[i]))


def test_training_is_that_of_the_base_itself(tiny_folder, batch):
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    plain = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32).eval()
    model = get_peft_model(base, DriftAdapterConfig(r="full", signature_rank=4)).eval()
    open_task(model, "text-classification", ("a", "b"), 2)
    fresh = take_snapshot(model)
    assert all(not tensor.any() for name, tensor in fresh.items() if name.endswith("drift_full"))
    head = model.base_model.model.lifelong
    weight = head.drift_head_weight["default"].detach()
    mask = batch["attention_mask"].unsqueeze(-1)
    labels = torch.tensor([0, 1, 0, 1])
    model(**batch, labels=labels).loss.backward()
    hidden = (plain(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.nn.functional.cross_entropy(linear(hidden, weight), labels).backward()
    trained = {name: module for name, module in plain.named_modules() if f"{name}.drift_full" in fresh}
    assert len(trained) == len(layers_of(model)) > 0
    for name, module in drift_modules(model):
        if name in trained:
            gradient = module.drift_full["default"].grad
            expected = torch.cat(
                [trained[name].weight.grad.view(len(gradient), -1), trained[name].bias.grad[:, None]], 1
            )
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    close_task(model)


def test_a_file_holds_the_differences_and_nothing_of_low_rank(make_full, tmp_path):
    model = make_full(tasks=("films", "news"))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    containers = {name.rsplit(".", 1)[1] for name in tensors if ".layer." in name}
    assert containers == {"drift_full", "drift_bank_full"}
    bank = next(t for name, t in tensors.items() if name.endswith("query.drift_bank_full"))
    assert bank.shape == (4, 32, 33) and bank.dtype == torch.float32
    sizes = task_bytes({name: tuple(t.shape) for name, t in tensors.items()}, model.knowledge)
    members = sum(t[:2].nbytes for name, t in tensors.items() if name.endswith("drift_bank_full"))
    assert members < sizes["films"] < sizes["news"]  # three labels, not two


def test_a_model_is_exported_in_the_dtype_of_its_members(make_full, batch, tmp_path):
    model = make_full(tasks=("films",), dtype=torch.bfloat16)
    report = export(model, "films", tmp_path / "out", member=1)
    assert report.rank is None and "a whole model" in str(report)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"format": "lora"}, "exported as 'model'"), ({"rank": 2}, "`rank` is 2, but full members")],
)
def test_what_cannot_be_exported_is_refused(options, words, make_full, tmp_path):
    with pytest.raises(ValueError, match=words):
        export(make_full(tasks=("films",)), "films", tmp_path / "out", **options)


def test_members_of_low_rank_are_not_exported_as_a_model(make_model, tmp_path):
    with pytest.raises(ValueError, match="`r=2` are exported as 'lora'"):
        export(make_model(tasks=("films",)), "films", tmp_path / "out", format="model")


def test_a_union_holds_the_members_of_both(make_full, batch):
    first, second = make_full(tasks=("films",)), make_full(tasks=("news",))
    both = make_full(tasks=("films", "news"))
    same_tensors(tensors_of(union(first, second)), tensors_of(both))
    answers_equal(predict(first, batch), predict(both, batch))


def test_adapters_of_one_model_keep_members_alike(make_full):
    model = make_full(tasks=("films",))
    with pytest.raises(ValueError, match="`r` of adapter `other` is 2, but this model has an adapter whose members"):
        model.add_adapter("other", DriftAdapterConfig(r=2, members=2, signature_rank=4))


def test_weights_that_are_no_numbers_have_no_differences():
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match='`r` is "full", but the weights of a `Linear` of the base are quantised'):
        FullLayer(layer, Context()).own_sizes()


def test_a_target_that_is_neither_linear_nor_norm_is_named(make_full):
    with pytest.raises(ValueError, match="matches no linear or norm layer above the trunk"):
        make_full(tasks=(), target_modules=["word_embeddings"])


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("projection", "embeddings.patch_embeddings.projection"),  # a `Conv2d`
        ("position_embeddings", "embeddings.position_embeddings"),  # a parameter of the embeddings, no module
    ],
)
def test_what_runs_once_for_all_members_cannot_have_members(target, named, tiny_image_folder):
    base = AutoModel.from_pretrained(tiny_image_folder("vit"), dtype=torch.float32)
    config = DriftAdapterConfig(r="full", trunk_depth=0.0, target_modules=[target])
    with pytest.raises(ValueError, match=f"no linear or norm layer.*`{named}` is not part of a layer: it runs"):
        get_peft_model(base, config)


def test_memory_counts_whole_differences(tiny_folder):
    config = DriftAdapterConfig(r="full", members=2, signature_rank=4, trunk_depth=0.5)
    found = estimate_memory(tiny_folder("bert"), config, bits=32, batch_size=2, length=8, device="cpu")
    model = get_peft_model(AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32), config)
    own = sum(layer.drift_full["default"].numel() for layer in layers_of(model).values())
    head = 2 * 32 + 2
    assert found.trainable == own + head
    learn_task(model, "films", *TASKS["films"], seed=0)
    learned = sum(t.nbytes for name, t in tensors_of(model).items() if "_bank_" in name or "signature" in name)
    assert found.knowledge >= learned
