"""Pictures of what a model confuses. They show data of the user, so they are drawn only where one asks for them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter import modality_of
from ..objectives import modality_named, read_image
from ..utils.figures import drawn

if TYPE_CHECKING:
    from .trainer import DriftTrainer


def plot_confused(
    trainer: DriftTrainer, path: str | os.PathLike[str], most_pairs: int = 5, most_pictures: int = 8
) -> dict[tuple[str, str], int]:
    """Draws test images that the group of another task answers, a row for each of the most frequent confusions.

    Nothing calls this by itself: neither an adapter nor its card holds examples. Look at the pictures before you
    publish them.

    Args:
        trainer ([`DriftTrainer`]): Has the model, and the tasks with their test images.
        path (`str` or path): The PNG that is written; nothing is written if nothing is confused.
        most_pairs, most_pictures (`int`, *optional*): Largest number of rows, and of images in a row.

    Returns:
        `dict`: (task of the images, task whose group answered) → number of images, of all confusions.

    Raises:
        ValueError: when the base does not take images.
        ImportError: when matplotlib is not installed.
    """
    if modality_of(trainer.model.get_base_model()) is not modality_named("image"):
        raise ValueError("`trainer` learns texts; only a base that takes images has pictures to show.")
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    group_of = {task.name: task.group for task in trainer.knowledge.tasks}
    for task in trainer.tasks:
        if task.name not in group_of:
            continue
        prepared = trainer.prepared(task)
        column = prepared.test.examples[prepared.columns["image"]]
        for row, answered in enumerate(trainer.evaluator.routed(prepared, prepared.test)):
            if group_of[answered] != group_of[task.name]:
                found[task.name, answered].append(column[row])
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    if ranked:
        _draw(Path(path), ranked[:most_pairs], most_pictures)
    return {pair: len(images) for pair, images in ranked}


def _draw(path: Path, rows: Sequence[tuple[tuple[str, str], list[Any]]], most: int) -> None:
    with drawn(path, (most, 1.5 * len(rows))) as figure:
        for line, ((own, answered), images) in zip(figure.subfigures(len(rows), squeeze=False), rows, strict=True):
            line[0].suptitle(f"{own}, answered as {answered}: {len(images)}", fontsize=9)
            for place, image in zip(line[0].subplots(1, most), [*images, *[None] * most][:most], strict=True):
                place.axis("off")
                if image is not None:
                    place.imshow(read_image(image, None, "image"))
