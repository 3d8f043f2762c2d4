"""Exported folders as stock PEFT answers from them, in a process that never sees this package."""

import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter.exporting import compressed_update, export, merged_update, serving_problems
from hf_lifelong.adapter.low_rank import DriftLayer

SAME = 1e-5  # how far probabilities of the folder may lie from those of the group, float32
WEIGHTS = "adapter_model.safetensors"
KINDS = ("news", "answers", "names")  # a text, a question answering and a token classification task
ENCODERS = [(model_type, task) for model_type in ("bert", "roberta", "distilbert", "modernbert") for task in KINDS]
ENCODERS += [("deberta-v2", "names"), ("mpnet", "news")]
TARGETS = {"mpnet": "all-linear"}

# Runs the code of each folder's README.md there, and keeps the batch and the logits that it leaves.
RUN_READMES = """
import os, pathlib, sys
import torch
torch.set_num_threads(1)
found = {}
for folder in sys.argv[2:]:
    os.chdir(folder)
    names = {}
    exec(pathlib.Path("README.md").read_text().split("```python\\n")[1].split("```")[0], names)
    found[folder] = (dict(names["batch"]), names["logits"])
assert not any(name.partition(".")[0] == "hf_lifelong" for name in sys.modules), "hf_lifelong was imported"
torch.save(found, sys.argv[1])
"""


def run_readmes(result, folders):
    """`{folder: (batch, logits)}`, from one process with stock PEFT."""
    command = [sys.executable, "-c", RUN_READMES, str(result), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(result)


def quiet_export(*args, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*loads with PEFT, but")
        return export(*args, **options)


def probabilities(task, batch, logits):
    """`[N, D, C]` as in `LifelongOutput.scores`."""
    kind = TASKS[task][0]
    if kind == "question-answering":
        return logits.masked_fill(batch["attention_mask"][..., None] == 0, -math.inf).softmax(1).transpose(1, 2)
    return logits.softmax(-1).unsqueeze(1) if kind == "text-classification" else logits.softmax(-1)


def assert_same_answers(task, found, answer):
    batch, logits = found
    ours = probabilities(task, batch, logits)
    d, c = ours.shape[1:]
    theirs = answer.scores[:, :d, :c]
    assert not answer.scores[:, d:].any() and not answer.scores[:, :, c:].any()
    if TASKS[task][0] == "token-classification":
        seen = batch["attention_mask"] != 0
        ours, theirs = ours[seen], theirs[seen]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=SAME)
    assert ours.std() > 0.01  # answers that are all alike would show nothing


@pytest.fixture(scope="session")
def encoders(make_model, tmp_path_factory):
    """`(model_type, task)` → model, what its README.md gave, report; and of BERT's `names` each member and ranks."""
    tmp = tmp_path_factory.mktemp("exports")
    models = {t: make_model(t, target_modules=TARGETS.get(t)) for t in dict(ENCODERS)}
    reports = {key: quiet_export(models[key[0]], key[1], tmp / "-".join(key)) for key in ENCODERS}
    for options in ({"member": 0}, {"member": 1}, {"rank": 4}, {"member": 1, "rank": 2}):
        key = ("bert", "names", *options.items())
        reports[key] = quiet_export(models["bert"], "names", tmp / str(len(reports)), **options)
    found = run_readmes(tmp / "found.pt", [report.folder for report in reports.values()])
    return {key: (models[key[0]], found[str(report.folder)], report) for key, report in reports.items()}


@pytest.mark.parametrize(("model_type", "task"), ENCODERS)
def test_stock_peft_answers_as_the_group_does(encoders, model_type, task):
    model, found, report = encoders[model_type, task]
    assert_same_answers(task, found, predict(model, found[0], policy="oracle", group=task))
    assert report.members == (0, 1) and report.rank == 4 and report.error == 0.0
    assert set(report.layer_errors.values()) == {0.0}


def test_a_number_is_given_in_the_units_of_its_task(tiny_folder, tmp_path):
    folders = []
    for model_type in ("bert", "modernbert"):  # with a stock head that fits, and with the head beside the LoRA
        base = AutoModel.from_pretrained(tiny_folder(model_type), dtype=torch.float32)
        model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
        learn_task(model, "stars", "text-regression", ("value",), 5, constants={"mean": 30.0, "std": 4.0})
        report = quiet_export(model.eval(), "stars", tmp_path / model_type)
        assert "in the units of the training data" in report.note
        folders.append((model, report.folder))
    found = run_readmes(tmp_path / "found.pt", [folder for _, folder in folders])
    for model, folder in folders:
        batch, logits = found[str(folder)]
        torch.testing.assert_close(logits, predict(model, batch).scores[:, 0], rtol=1e-5, atol=SAME)
        assert logits.mean() > 10


def test_members_can_be_exported_alone(encoders, make_model):
    (model, (batch, first), report), (_, (_, second), _) = (encoders["bert", "names", ("member", m)] for m in (0, 1))
    assert report.members == (0,) and report.rank == 2
    lone = make_model(tasks=())
    learn_task(lone, "names", *TASKS["names"], seed=list(TASKS).index("names"), members=1)
    assert_same_answers("names", (batch, first), predict(lone, batch))
    mean = (first.softmax(-1) + second.softmax(-1)) / 2
    both = predict(model, batch, policy="oracle", group="names", answer="ensemble")
    assert_same_answers("names", (batch, mean.log()), both)


def test_full_rank_is_exact(encoders):
    for exact, full in (((), ("rank", 4)), (("member", 1), (("member", 1), ("rank", 2)))):
        exact = ("bert", "names", exact) if exact else ("bert", "names")
        full = ("bert", "names", full) if full[0] == "rank" else ("bert", "names", *full)
        # Other factors of the same product round otherwise, by how much depends on the processor.
        torch.testing.assert_close(encoders[full][1][1], encoders[exact][1][1], rtol=0, atol=3 * SAME)
        assert encoders[full][2].error < 1e-7


def updates_in(folder):
    """Dense updates of all layers, as stock PEFT would add them."""
    config, tensors = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / WEIGHTS)
    names = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    scaling = config["lora_alpha"] / config["r"]
    return {n: scaling * (tensors[f"{n}.lora_B.weight"] @ tensors[f"{n}.lora_A.weight"]).double() for n in names}


@pytest.mark.parametrize("rank", [1, 3])
def test_the_error_of_a_lower_rank_is_measured_and_least(make_model, tmp_path, rank):
    model = make_model(tasks=("news",))
    quiet_export(model, "news", tmp_path / "exact")
    report = quiet_export(model, "news", tmp_path / "low", rank=rank)
    exact, low = updates_in(tmp_path / "exact"), updates_in(tmp_path / "low")
    assert report.rank == rank and 0 < report.error < 1
    for name, update in exact.items():
        error = float((low[name] - update).norm() / update.norm())
        assert report.layer_errors[name.removeprefix("base_model.model.")] == pytest.approx(error, rel=1e-5)
        values = torch.linalg.svdvals(update)
        assert error == pytest.approx(float(values[rank:].norm() / values.norm()), rel=1e-5)
    lost = sum(float((low[n] - exact[n]).square().sum()) for n in exact)
    assert report.error == pytest.approx(
        (lost / sum(float(u.square().sum()) for u in exact.values())) ** 0.5, rel=1e-5
    )
    assert f"{report.error:.2e}" in str(report) and f"{report.error:.2e}" in (report.folder / "README.md").read_text()


@pytest.mark.parametrize(("fan_in", "fan_out"), [(20, 30), (5, 30), (20, 5), (3, 4)])
def test_updates_are_merged_and_compressed_exactly(fan_in, fan_out):
    bank_a, bank_b = torch.randn(3, 4, fan_in), torch.randn(3, 4, fan_out)
    a, b = merged_update(bank_a, bank_b)
    assert a.shape == (12, fan_in) and b.shape == (fan_out, 12)
    torch.testing.assert_close(b @ a, (bank_b.mT @ bank_a).mean(0))
    full = torch.linalg.svdvals((b @ a).double())
    for rank in (1, 4, 12):
        low_a, low_b, values = compressed_update(a, b, rank)
        assert low_a.shape == (rank, fan_in) and low_b.shape == (fan_out, rank)
        error = (low_b @ low_a - (b @ a).double()).norm()
        torch.testing.assert_close(error, full[rank:].norm(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values, full[: len(values)], rtol=1e-4, atol=1e-4)


def test_a_layer_without_an_update_has_no_error(make_model, tmp_path):
    model = make_model(tasks=("news",))
    for module in model.modules():
        if isinstance(module, DriftLayer):
            module.drift_bank_B["default"].data.zero_()
    assert quiet_export(model, "news", tmp_path / "out", rank=1).error == 0.0
    assert all(torch.isfinite(t).all() for t in load_file(tmp_path / "out" / WEIGHTS).values())


def test_the_newest_task_answers_however_the_group_is_named(make_model, tmp_path):
    model = make_model(tasks=("films", "news"))
    learn_task(model, "later", *TASKS["films"], seed=7, group="films", members=3)
    only_later = make_model(tasks=())
    learn_task(only_later, "later", *TASKS["films"], seed=7, members=3)
    quiet_export(only_later, 0, tmp_path / "expected")
    for i, group in enumerate((0, "films", "later")):
        report = quiet_export(model, group, tmp_path / str(i))
        assert (report.group, report.task, report.members, report.rank) == ("films", "later", (0, 1, 2), 6)
        for file in (WEIGHTS, "adapter_config.json"):
            assert (tmp_path / str(i) / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


def test_the_folder_is_what_stock_peft_would_save(make_model, tiny_folder, tmp_path):
    model = make_model(tasks=("names",))
    quiet_export(model, "names", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "adapter_config.json", WEIGHTS]
    layers = [n for n, m in model.base_model.model.named_modules() if isinstance(m, DriftLayer)]
    expected = {
        "peft_type": "LORA",
        "task_type": "TOKEN_CLS",
        "r": 4,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "fan_in_fan_out": False,
        "modules_to_save": ["classifier"],
        "target_modules": [f"bert.{name}" for name in layers],
        "base_model_name_or_path": str(tiny_folder("bert")),
    }
    assert {key: config[key] for key in expected} == expected
    stock = AutoModelForTokenClassification.from_pretrained(tiny_folder("bert"), num_labels=4, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(stock, tmp_path / "out")
    saved, stored = get_peft_model_state_dict(loaded), load_file(tmp_path / "out" / WEIGHTS)
    assert saved.keys() == stored.keys()
    assert all(torch.equal(saved[key], stored[key]) for key in saved)


def test_the_active_adapter_is_exported(make_model, tmp_path):
    other = make_model(tasks=("films", "names"))
    other.save_pretrained(tmp_path / "adapter")
    quiet_export(other, "names", tmp_path / "expected")
    model = make_model(tasks=("names",))
    model.load_adapter(tmp_path / "adapter", adapter_name="other")
    model.set_adapter("other")
    quiet_export(model, 1, tmp_path / "out")
    for file in (WEIGHTS, "adapter_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()


def test_a_fraction_keeps_the_scaling(make_model, tmp_path):
    report = quiet_export(make_model(tasks=("news",), r=3, lora_alpha=4), "news", tmp_path / "out", rank=2)
    config = LoraConfig.from_pretrained(tmp_path / "out")
    assert report.rank == config.r == 2 and config.lora_alpha / config.r == pytest.approx(4 / 3)


def test_the_same_knowledge_gives_the_same_files(make_model, tmp_path):
    model = make_model(tasks=("films", "news"))
    before, answer = tensors_of(model), predict(model, {"input_ids": torch.tensor([[101, 2054, 102]])})
    model.train()
    quiet_export(model, "news", tmp_path / "first")
    assert model.training
    model.save_pretrained(tmp_path / "adapter")
    native = AutoModel.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    quiet_export(native, "news", tmp_path / "second")
    for name in ("adapter_config.json", WEIGHTS, "README.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    same_tensors(tensors_of(model), before)
    answers_equal(predict(model, {"input_ids": torch.tensor([[101, 2054, 102]])}), answer)


def test_a_quantised_base_gives_the_same_tensors(make_model, tiny_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = make_model(tasks=("names",))
    model.save_pretrained(tmp_path / "adapter")
    quiet_export(model, "names", tmp_path / "float32")
    config = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModel.from_pretrained(tiny_folder("bert"), quantization_config=config, dtype=torch.float32)
    assert {type(m).__name__ for m in base.encoder.layer.modules() if isinstance(m, torch.nn.Linear)} == {
        "Linear8bitLt"
    }
    quiet_export(PeftModel.from_pretrained(base, tmp_path / "adapter"), "names", tmp_path / "8bit")
    for name in ("adapter_config.json", WEIGHTS):
        assert (tmp_path / "float32" / name).read_bytes() == (tmp_path / "8bit" / name).read_bytes()


def test_text_classification_says_how_it_is_read(encoders):
    for model_type, auto_class in (("bert", "AutoModelForTokenClassification"), ("modernbert", "AutoModel")):
        report = encoders[model_type, "news"][2]
        readme = (report.folder / "README.md").read_text()
        assert report.form.auto_class == auto_class
        for text in (report.note, str(report), readme):
            assert "Averaged over the attention mask they are the logits of the text" in text
    assert "Averaged" not in encoders["bert", "names"][2].note


def test_the_readme_says_what_it_is(encoders, tiny_folder):
    readme = (encoders["bert", "names"][2].folder / "README.md").read_text()
    for part in (
        "exported from a lifelong adapter: the mean of 2 members of the task `names`",
        f"Base model: `{tiny_folder('bert')}`",
        "`id2label = {0: 'O', 1: 'PER', 2: 'LOC', 3: 'ORG'}`",
        "Licence: none is chosen here",
        "PeftModel.from_pretrained(model, folder)",
    ):
        assert part in readme
    assert "member 1 of the task" in (encoders["bert", "names", ("member", 1)][2].folder / "README.md").read_text()


def lora(rank, layers=range(4), modules=("q_proj", "v_proj"), **config):
    targets = [f"model.layers.{i}.self_attn.{module}" for i in layers for module in modules]
    return LoraConfig(r=rank, target_modules=targets, task_type="CAUSAL_LM", **config)


@pytest.mark.parametrize("rank", [1, 8, 16])
def test_what_both_servers_serve_has_no_problems(rank):
    assert serving_problems(lora(rank), "llama", 4) == []


@pytest.mark.parametrize(
    ("rank", "fixes"),
    [
        (32, [r"vLLM refuses rank 32 .*`--max-lora-rank 32`.*`rank=16`"]),
        (40, [r"vLLM refuses rank 40 .*`--max-lora-rank 64`.*`rank=16`", r"LoRAX .* not for 40; .*`rank=32`"]),
        (96, [r"`--max-lora-rank 128`", r"LoRAX .* not for 96; .*`rank=64`"]),
        (300, [r"`--max-lora-rank 320`"]),
        (513, [r"vLLM serves ranks up to 512, this is 513; .*`rank=512`"]),
    ],
)
def test_ranks_that_are_not_served_are_named_with_a_fix(rank, fixes):
    problems = serving_problems(lora(rank), "llama", 4)
    assert len(problems) == len(fixes)
    for problem, fix in zip(problems, fixes, strict=True):
        assert re.search(fix, problem), problem


def test_other_things_that_are_not_served():
    [trunk] = serving_problems(lora(8, layers=(2, 3)), "llama", 4)
    assert "LoRAX leaves out a module unless all layers" in trunk and "`trunk_depth=0`" in trunk
    [module] = serving_problems(lora(8, modules=("q_proj", "odd")), "llama", 4)
    assert "LoRAX leaves out ['self_attn.odd'] of `llama`" in module
    [unknown] = serving_problems(lora(8), "olmo2", 4)
    assert "LoRAX documents no modules of `olmo2`" in unknown
    [gpt2] = serving_problems(lora(64, modules=("c_attn",)), "gpt2", 4)
    assert "vLLM lists no LoRA for `gpt2`" in gpt2
    encoder = LoraConfig(r=40, target_modules=["encoder.layer.1.query"], task_type="FEATURE_EXTRACTION")
    pooled, rank = serving_problems(encoder, "modernbert", 4)
    assert "vLLM adapts `modernbert` since September 2026" in pooled and "--max-lora-rank 64" in rank
    encoder.modules_to_save = ["classifier"]
    head, bert = serving_problems(encoder, "bert", 4)
    assert "vLLM reads the head ['classifier'] since August 2026" in head and "serve it with PEFT" in bert
    encoder.modules_to_save = ["qa_outputs"]
    other, _ = serving_problems(encoder, "bert", 4)
    assert "vLLM reads the heads ['classifier', 'score'], not ['qa_outputs']" in other


def test_serving_problems_are_one_warning(make_model, tmp_path):
    model = make_model(tasks=("news",))
    with pytest.warns(UserWarning, match="loads with PEFT, but") as caught:
        report = export(model, "news", tmp_path / "out")
    ours = [str(w.message) for w in caught if "loads with PEFT" in str(w.message)]
    assert len(ours) == 1 and len(report.problems) == 2
    readme = (tmp_path / "out" / "README.md").read_text()
    assert all(problem in ours[0] and problem in readme for problem in report.problems)


REFUSALS = {
    "format": ({"format": "gguf"}, ValueError, r"`format` is 'gguf'; choose one of \['lora', 'model'\]"),
    "group index": ({"group": 2}, KeyError, "no group 2 in this knowledge base; it has 2 groups"),
    "group name": ({"group": "opera"}, KeyError, "no task `opera`"),
    "member": ({"member": 2}, ValueError, "`member` is 2, but task `news` has 2 members; choose one from 0 to 1"),
    "negative member": ({"member": -1}, ValueError, "`member` is -1"),
    "member's type": ({"member": True}, ValueError, "`member` is True"),
    "rank 0": ({"rank": 0}, ValueError, "`rank` is 0, but the update of 2 members has rank 4; choose one from 1 to 4"),
    "rank above": ({"rank": 5}, ValueError, "`rank` is 5, but"),
    "member's rank": ({"rank": 3, "member": 0}, ValueError, "`rank` is 3, but the update of 1 members has rank 2"),
    "rank's type": ({"rank": 2.0}, ValueError, "`rank` is 2.0"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_wrong_arguments_are_refused_and_nothing_is_written(make_model, tmp_path, refusal):
    options, error, message = REFUSALS[refusal]
    with pytest.raises(error, match=message):
        export(make_model(tasks=("films", "news")), folder=tmp_path / "out", **{"group": "news", **options})
    assert not os.listdir(tmp_path)


def test_a_taken_folder_is_refused_and_stays(make_model, tmp_path):
    model = make_model(tasks=("news",))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("taken", "file"):
        with pytest.raises(ValueError, match=rf"`folder` is '.*{name}', which exists and is not an empty folder"):
            export(model, "news", tmp_path / name)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["file", "taken"]
    (tmp_path / "empty").mkdir()
    quiet_export(model, "news", str(tmp_path / "empty"))
    assert WEIGHTS in os.listdir(tmp_path / "empty")


def test_nothing_is_left_half_written(make_model, tmp_path, monkeypatch):
    def fail(path, *_, **__):
        assert path.parent.parent == tmp_path and path.name == "README.md"  # the last file
        raise OSError("No space left on device")

    model = make_model(tasks=("news",))
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        export(model, "news", tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_an_adapter_without_knowledge_is_refused(make_model, tmp_path):
    with pytest.raises(ValueError, match="knows no task yet"):
        export(make_model(tasks=()), 0, tmp_path / "out")
    model = make_model(tasks=("news",))
    with model.disable_adapter(), pytest.raises(ValueError, match="is disabled"):
        export(model, 0, tmp_path / "out")
    with pytest.raises(ValueError, match="has no lifelong adapter"):
        export(AutoModel.from_config(model.config), 0, tmp_path / "out")
    next(m for m in model.modules() if isinstance(m, DriftLayer)).drift_bank_A["default"].data[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="holds NaN"):
        export(model, 0, tmp_path / "out")
    assert not os.listdir(tmp_path)


LANGUAGE_MODELS = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
        "max_position_embeddings": 160,
    },
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 160},
}


@pytest.fixture(scope="session")
def language_model_folder(tmp_path_factory, tokenizer):
    """`language_model_folder(model_type)`: folder of a tiny random language model with a tokenizer."""

    def make(model_type):
        folder = tmp_path_factory.mktemp(model_type)
        tokens = {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0, "vocab_size": len(tokenizer)}
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **LANGUAGE_MODELS[model_type], **tokens)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        inputs = ["input_ids", "attention_mask"]
        AutoTokenizer.from_pretrained(folder, model_input_names=inputs).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
@pytest.mark.feature("export as LoRA", "one process")
def test_a_language_model_is_exported_exactly(language_model_folder, tmp_path, model_type):
    folder = language_model_folder(model_type)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = DriftAdapterConfig(r=2, members=2, signature_rank=4, lora_alpha=2, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    for seed, name in enumerate(("stories", "recipes")):
        learn_task(model, name, "text-generation", (), seed=seed)
    reports = [quiet_export(model, "recipes", tmp_path / "merged"), quiet_export(model, 1, tmp_path / "full", rank=4)]
    found = run_readmes(tmp_path / "found.pt", [report.folder for report in reports])

    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    untouched = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = dict(expected.named_modules())
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, DriftLayer):
            a, b = (bank["default"][2:] for bank in (layer.drift_bank_A, layer.drift_bank_B))
            update = (b.mT @ a).mean(0)  # lora_alpha 2, r 2
            plain[name].weight.data += update.T if isinstance(plain[name], Conv1D) else update
    for report in reports:
        batch, logits = found[str(report.folder)]
        with torch.no_grad():
            torch.testing.assert_close(logits, expected(**batch).logits, rtol=0, atol=SAME)
            assert (logits - untouched(**batch).logits).abs().max() > 0.1
        ours = predict(model, batch, policy="oracle", group="recipes")
        torch.testing.assert_close(logits.softmax(-1), ours.logits.softmax(-1), rtol=0, atol=SAME)
        assert report.form.task_type == "CAUSAL_LM" and report.labels == () and report.form.head is None
        stored = json.loads((report.folder / "adapter_config.json").read_text())
        assert stored["fan_in_fan_out"] == (model_type == "gpt2") and stored["modules_to_save"] is None
        assert set(stored["target_modules"]) < plain.keys()
