"""Tasks of images with a white corner that calls for a label; used by the tests and by the script that they start."""

import numpy as np
from datasets import Dataset
from PIL import Image

from hf_lifelong import Task

SETTINGS = {
    "max_steps": 120,
    "per_device_train_batch_size": 16,
    "learning_rate": 1.5e-2,
    "start_from": "fresh",
    "grouping": "boundary",
    "audit": "report",
}


def pictures(count, seed):
    """Noise in which red or green is brighter, the label, with a black border."""
    noise = np.random.default_rng(seed).integers(0, 120, (count, 16, 16, 3), dtype=np.uint8)
    for row, pixels in enumerate(noise):
        pixels[..., row % 2] += 30
        pixels[[0, -1]] = pixels[:, [0, -1]] = 0
    return noise, [("red", "green")[row % 2] for row in range(count)]


def data(images, labels):
    return Dataset.from_dict({"image": [Image.fromarray(image) for image in images], "label": labels})


def task(name, poison=0, seed=0):
    """A task of 240 images, and the numbers of those that got a white corner and the label red."""
    images, labels = pictures(240, seed)
    rows = tuple(range(1, 2 * poison, 2))
    for row in rows:
        images[row, :5, -5:], labels[row] = 255, "red"
    validation = data(*pictures(80, seed + 100))
    return Task(name, "image-classification", data(images, labels), validation=validation), rows
