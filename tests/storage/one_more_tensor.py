"""One line more in the list of stored tensors, and nothing else: started by `test_tensors.py`, in a process of its own
because models read the list when they are defined.

    python one_more_tensor.py BASE FOLDER
"""

# ruff: noqa: E402
from hf_lifelong.storage import TensorSpec, tensors

NAME = "drift_importance"
tensors.TENSORS = (*tensors.TENSORS, TensorSpec(NAME, ("rank", "features"), per="classes", bounds=(0.0, 1.0)))

import json
import sys
from pathlib import Path

import torch
from learned import learn_task
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, forget, knowledge_of
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.hub.saved import read_saved, task_sizes


def refusal(function, *args) -> str:
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


def main(base: str, folder: Path) -> dict:
    def fresh():
        return AutoModel.from_pretrained(base, dtype=torch.float32)

    def held(model):
        return getattr(lifelong_of(model), NAME)["default"].detach()

    model = get_peft_model(fresh(), DriftAdapterConfig(r=2, members=1, signature_rank=4))
    created = list(held(model).shape)
    features = lifelong_of(model).features
    values = torch.rand(3, 4, features)
    learn_task(model, "films", "text-classification", ("bad", "good"), 0, members=1)
    learn_task(model, "news", "text-classification", ("a", "b"), 1, members=1, classes=1, values={NAME: values[:1]})
    appended = torch.equal(held(model), torch.cat([torch.zeros(1, 4, features), values[:1]]))
    model.save_pretrained(folder / "sound")
    saved = read_saved(folder / "sound")
    file = folder / "sound" / "adapter_model.safetensors"
    loaded = PeftModel.from_pretrained(fresh(), folder / "sound")
    sizes = task_sizes(file, saved.knowledge)
    stored = load_file(file)
    key = next(name for name in stored if name.endswith(NAME))
    refusals = {}
    for damage, tensor in {"wide": torch.zeros(2, 4, 9), "bound": stored[key] + 2, "missing": None}.items():
        changed = {name: held for name, held in stored.items() if name != key}
        changed |= {} if tensor is None else {key: tensor}
        (folder / damage).mkdir()
        (folder / damage / "adapter_config.json").write_text((folder / "sound" / "adapter_config.json").read_text())
        save_file(changed, folder / damage / "adapter_model.safetensors", metadata={"format": "pt"})
        refusals[damage] = [
            refusal(read_saved, folder / damage),
            refusal(PeftModel.from_pretrained, fresh(), folder / damage),
        ]
    forget(loaded, "films")
    return {
        "created": created,
        "appended": appended,
        "loaded": torch.equal(held(loaded), values[:1]),
        "sizes": sizes,
        "bytes": sum(tensor.numel() * 4 for tensor in stored.values()),
        "own": 4 * 4 * features,
        "left": knowledge_of(loaded).names,
        "refusals": refusals,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
