"""The comparison of methods on images: its streams, and every method on a small one."""

import images
import numpy as np
import pytest
import streams
import torch
from datasets import ClassLabel, Dataset
from methods import frozen
from methods.sequential import replay
from methods.shared import Setting, SharedLearner, image_parts, prepare
from PIL import Image
from transformers import AutoModel


def pictures(name, labels, base, count=24):
    """A task of noise in which one colour is brighter: the label."""
    noise = np.random.default_rng(base).integers(base, base + 60, (count, 16, 16, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        pixels[..., i % len(labels)] += 100
    rows = {"image": [Image.fromarray(pixels) for pixels in noise], "label": [i % len(labels) for i in range(count)]}
    data = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=list(labels)))
    return {"name": name, "kind": "image-classification", "train": data, "validation": data, "test": data}


@pytest.fixture
def setting(tiny_image_folder):
    def make(**chosen):
        budget = {**images.BUDGET, "side": 16, "epochs": 5, "variants": False}
        return Setting(str(tiny_image_folder("dinov2")), 0, budget, {"learning_rate": 1e-2, **chosen})

    return make


@pytest.fixture
def tasks(setting):
    return prepare([pictures("lights", ("red", "green"), 0), pictures("flags", ("blue", "white"), 90)], setting())


@pytest.mark.parametrize("name", images.IMAGES.methods)
def test_a_method_runs_with_the_first_values_of_its_grid(name, tasks, setting):
    method = images.IMAGES.methods[name]
    result = method.run(tasks, setting(**{**method.settings({}), "width": 64}))
    assert len(result.matrix.scores) == len(result.bytes_per_task) == 2
    assert result.seconds > 0 and None not in result.matrix.scores[-1]


def test_frozen_features_are_class_token_and_patches_as_the_backbone_normalises_them(tasks, setting):
    model = AutoModel.from_pretrained(setting().model).eval()
    last, four = (frozen.features_of(model, tasks[0], tasks[0].train, layers) for layers in ("last", "four"))
    image = {"pixel_values": tasks[0].train[3]["pixel_values"]}
    with torch.no_grad():
        hidden = model(**tasks[0].task_kind.collator(tasks[0].tokenizer)([image])).last_hidden_state
    expected = torch.cat([hidden[0, 0], hidden[0, 1:].mean(0)])
    # Features are computed in bfloat16.
    np.testing.assert_allclose(last[3], expected, atol=0.05)
    assert four.shape == (24, 8 * 32) and np.array_equal(four[:, -64:], last)


def test_heads_read_the_mean_of_class_token_and_patches(tasks, setting):
    shared = SharedLearner(tasks, setting())
    batch = shared.model.eval().inputs(shared.collator(list(shared.rows(0).select(range(3)))))
    hidden = shared.model.backbone(**batch).last_hidden_state
    logits, _ = shared.model.logits(**batch)
    pooled = (hidden[:, 0] + hidden[:, 1:].mean(1)) / 2
    torch.testing.assert_close(logits, shared.model.label_head(pooled))
    torch.testing.assert_close(image_parts(hidden).mean(1), pooled)


def test_replay_counts_the_files_of_the_images_that_it_keeps(tasks, setting):
    result = replay(tasks, setting(share=0.1, labels="seen"))
    sizes = [len(image["bytes"]) for image in tasks[1].train["pixel_values"]]
    assert 2 * min(sizes) <= result.bytes_per_task[1] <= 2 * max(sizes)


def test_streams_of_images_hold_every_class_once():
    for name, count, width in (("mnist", 5, 2), ("cifar10", 5, 2), ("cifar100", 10, 10), ("superclasses", 20, 5)):
        tasks = [streams.TASKS[task] for task in streams.stream(name, 0)]
        labels = [label for task in tasks for label in task.labels]
        assert [len(task.labels) for task in tasks] == [width] * count and len(set(labels)) == count * width
    assert set(images.STREAMS) <= set(streams.STREAMS) and images.CHOICE["streams"] == ["cifar10"]
