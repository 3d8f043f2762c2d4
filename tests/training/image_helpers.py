"""Small tasks of images and trainers for them; used by the tests and by the script that they start."""

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task


def pictures(name="lights", labels=("red", "green"), base=0, count=24, **options) -> Task:
    """Noise in which one colour is brighter: the label."""
    noise = np.random.default_rng(base).integers(base, base + 60, (count, 16, 16, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        pixels[..., i % len(labels)] += 100
    rows = {"image": [Image.fromarray(pixels) for pixels in noise]}
    data = Dataset.from_dict({**rows, "label": [labels[i % len(labels)] for i in range(count)]})
    return Task(name, "image-classification", **{"train": data, "test": data.select(range(6)), **options})


def make_trainer(folder, out, tasks, processor=None, callbacks=None, **arguments) -> DriftTrainer:
    torch.manual_seed(0)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    processor = AutoImageProcessor.from_pretrained(folder) if processor is None else processor
    args = DriftTrainingArguments(str(out), **{**settings, **arguments})
    return DriftTrainer(model, args, tasks=tasks, processing_class=processor, callbacks=callbacks)
