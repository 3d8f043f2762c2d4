"""Four handwritten digits, then four others: one adapter keeps both, and is not told which of the two it is asked.

    python recipes/images.py          # a minute or two on two cores; nothing is downloaded

The base is made here: a small DINOv2 that has read the letters of Pillow's own font. The pictures are the 8 x 8 digits
that come with scikit-learn (BSD). `contact_sheet.png` shows what is answered to pictures that were not trained on.
"""

# ruff: noqa: E402 (notes of libraries are muted before they are imported)
from __future__ import annotations

from hf_lifelong.utils.console import mute_notes

mute_notes()

import argparse
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, disable_progress_bars
from peft import get_peft_model
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    pipeline,
    set_seed,
)
from transformers.utils import logging

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task

SIDE = 8
TASKS = {"low digits": (0, 1, 2, 3), "high digits": (4, 5, 6, 7)}
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}


def letter(text: str, draw: np.random.Generator) -> Image.Image:
    """A letter, as coarse as the digits: of any size and weight, a little turned and moved."""
    image = Image.new("L", (64, 64))
    font = ImageFont.load_default(float(draw.uniform(48, 66)))
    place = tuple(32 + draw.uniform(-4, 4, 2))
    ImageDraw.Draw(image).text(place, text, fill=255, font=font, anchor="mm", stroke_width=int(draw.integers(0, 4)))
    return image.rotate(draw.uniform(-20, 20)).resize((SIDE, SIDE), Image.Resampling.BOX)


def make_base(folder: Path, processor: Any, letters: int, seed: int) -> None:
    """Trains a small base on letters and saves it with its image processor."""
    draw = np.random.default_rng(seed)
    names = string.ascii_uppercase
    labels = draw.integers(0, len(names), letters)
    images = [letter(names[k], draw).convert("RGB") for k in labels]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    set_seed(seed)
    config = Dinov2Config(
        image_size=SIDE,
        patch_size=2,
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        mlp_ratio=2,
        num_labels=len(names),
    )
    model = Dinov2ForImageClassification(config)
    args = TrainingArguments(
        str(folder), num_train_epochs=12, per_device_train_batch_size=64, learning_rate=2e-3, seed=seed, **QUIET
    )
    rows = [{"pixel_values": image, "labels": int(k)} for image, k in zip(pixels, labels, strict=True)]
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.base_model.save_pretrained(folder)
    processor.save_pretrained(folder)


def digits_of(classes: tuple[int, ...]) -> tuple[Dataset, Dataset]:
    """Training and test pictures of some digits."""
    found = load_digits()
    rows = np.isin(found.target, classes).nonzero()[0]
    images = [Image.fromarray((found.images[i] * 255 / 16).astype(np.uint8)) for i in rows]
    labels = [classes.index(found.target[i]) for i in rows]
    data = Dataset.from_dict({"image": images, "label": labels})
    data = data.cast_column("label", ClassLabel(names=[str(k) for k in classes]))
    parts = data.train_test_split(test_size=0.3, seed=0, stratify_by_column="label")
    return parts["train"], parts["test"]


def contact_sheet(path: Path, rows: dict[str, list[tuple[Image.Image, str, dict[str, Any]]]]) -> None:
    """A row of pictures for each task, with what was answered; what is wrong is red."""
    from hf_lifelong.utils.figures import drawn

    columns = max(map(len, rows.values()))
    with drawn(path, (columns, 1.6 * len(rows))) as figure:
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (task, shown) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(task, fontsize=9)
            for place, (image, right, answer) in zip(line, shown, strict=True):
                is_right = answer["answer"] == right and answer["task"] == task
                place.imshow(image, cmap="gray_r")
                place.set_title(f"{answer['answer']}\n{answer['task']}", fontsize=7, color="k" if is_right else "r")
                place.set_xticks([])
                place.set_yticks([])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", type=int, default=4000, help="letters that the base reads first")
    parser.add_argument("--epochs", type=float, default=20.0, help="of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="out/images")
    args = parser.parse_args(argv)
    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # the models are too small to be shared between cores
    folder = Path(args.output_dir)
    print(f"The base reads {args.letters:,} letters …")
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    make_base(folder / "base", processor, args.letters, args.seed)

    tests, tasks = {}, []
    for name, classes in TASKS.items():
        train, tests[name] = digits_of(classes)
        tasks.append(Task(name, "image-classification", train=train, test=tests[name]))
    set_seed(args.seed)
    base = AutoModel.from_pretrained(folder / "base", dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=8, members=3))
    settings = {"num_train_epochs": args.epochs, "per_device_train_batch_size": 32, "learning_rate": 5e-3}
    trainer = DriftTrainer(
        model,
        DriftTrainingArguments(str(folder), seed=args.seed, **settings, **QUIET),
        tasks=tasks,
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    for task in tasks:
        print(f"It learns {task.name}: {len(task.train)} pictures of {', '.join(map(str, TASKS[task.name]))} …")
    trainer.train()

    ask = pipeline("lifelong", model=trainer.model, image_processor=processor)
    matrix = trainer.matrix
    for name, score, found in zip(matrix.tasks, matrix.scores[-1], matrix.retrieval[-1], strict=True):
        print(f"  {name}: {score:.3f} right, {found:.3f} sent to its own group")
    print(f"  average accuracy {matrix.average_accuracy():.3f}, forgetting {matrix.forgetting():.3f}")
    shown = {}
    for name, data in tests.items():
        some = data.shuffle(seed=args.seed).select(range(12))
        names = [data.features["label"].int2str(k) for k in some["label"]]
        shown[name] = list(zip(some["image"], names, ask(list(some["image"])), strict=True))
    contact_sheet(folder / "contact_sheet.png", shown)
    print(f"{folder / 'contact_sheet.png'} shows its answers; `hf-lifelong predict {folder} PICTURE` asks it again.")


if __name__ == "__main__":
    main()
