"""Writes a small learned adapter, its base, and its answers to a fixed batch, as files of the present format.

`python tests/write_folder.py FOLDER`; done once for each format, by the last code that
wrote it. `tests/test_old_formats.py` then holds every later code against the answers.
"""

import sys
from pathlib import Path

import torch
from learned import learn_task
from peft import get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import trunk_features
from hf_lifelong.adapter.bank import set_closed_form
from hf_lifelong.knowledge import fit_closed_form, fit_signature

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
# Name → kind, labels, first of its token ids, group.
TASKS = {
    "films": ("text-classification", ("bad", "good"), 4, "films"),
    "answers": ("question-answering", ("start", "end"), 18, "answers"),
    "names": ("token-classification", ("O", "PER", "LOC"), 32, "names"),
    "more films": ("text-classification", ("bad", "good"), 6, "films"),
}
# `wide` has more pooled numbers than features of its signature, so that they are projected.
ADAPTERS = {"plain": {}, "wide": {"signature_size": 20}}
REQUESTS = {
    "signature": {},
    "ensemble": {"answer": "ensemble"},
    "uncertainty": {"policy": "uncertainty"},
    "cascade": {"policy": "cascade"},
    "variance": {"policy": "cascade", "uncertainty": "variance"},
    "of_one_kind": {"kinds": ("text-classification",)},
}
PARTS = ("scores", "group", "task", "uncertainty", "margin", "novelty")


def inputs_of(first: int, rows: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(first, first + 14, (rows, 9), generator=generator)
    mask = torch.arange(9) < torch.randint(4, 10, (rows, 1), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def answers_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The answers of every request, by request and part."""
    found = {}
    for name, options in REQUESTS.items():
        answer = model.predict(batch, novelty=name != "uncertainty", **options)
        found |= {f"{name}.{part}": answer[part] for part in PARTS if part in answer}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def learn(model: torch.nn.Module) -> None:
    for seed, (name, (kind, labels, first, group)) in enumerate(TASKS.items()):
        features = trunk_features(model, inputs_of(first, 40, seed))
        of_class = features[:, 0].argsort().argsort() % len(labels)
        classes = len(labels) if kind == "text-classification" else 1
        signature = fit_signature(features, 4, of_class if classes > 1 else None, classes)
        learn_task(model, name, kind, labels, seed, group, signature=signature, classes=classes)
        if classes > 1:
            set_closed_form(model, name, *(0.1 * part for part in fit_closed_form(features, of_class, classes)))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    base = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES), dtype=torch.float32)
    base.save_pretrained(folder / "base")
    batch = {
        key: torch.cat([inputs_of(first, 4, 100 + first)[key] for _, _, first, _ in TASKS.values()])
        for key in ("input_ids", "attention_mask")
    }
    found = {f"batch.{key}": tensor for key, tensor in batch.items()}
    with torch.no_grad():
        found["base"] = base.eval()(**batch).last_hidden_state
    for name, settings in ADAPTERS.items():
        base = AutoModel.from_pretrained(folder / "base", dtype=torch.float32)
        model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4, **settings)).eval()
        learn(model)
        model.save_pretrained(str(folder / name))
        (folder / name / "README.md").unlink()
        found |= {f"{name}.{key}": tensor for key, tensor in answers_of(model, batch).items()}
    save_file(found, folder / "answers.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
