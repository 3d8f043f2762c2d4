"""Two data-parallel processes learn a task of images; each notes what it holds.

python ../two_ranks.py ddp_image_script.py BASE WORK
"""

import json
from pathlib import Path

from image_helpers import make_trainer, pictures
from training_helpers import STILL, members_of


def main(base: str, work: str) -> None:
    tasks = [pictures(transform=lambda image: image.rotate(90))]
    options = {**STILL, "per_device_train_batch_size": 4, "max_steps": 4}
    trainer = make_trainer(base, Path(work, "out"), tasks, **options)
    trainer.train()
    members = {name: tensor.flatten().tolist() for name, tensor in members_of(trainer).items()}
    noted = {"members": members, "scores": trainer.evaluate()}
    Path(work, f"rank{trainer.args.process_index}.json").write_text(json.dumps(noted))
