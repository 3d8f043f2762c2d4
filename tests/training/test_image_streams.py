"""Streams of images: what training sees, what is refused before it, and the command line."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from image_helpers import make_trainer, pictures
from peft import get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, TrainerCallback, ViTImageProcessor
from typer.testing import CliRunner

from hf_lifelong import DriftAdapterConfig, Task
from hf_lifelong.cli.app import app
from hf_lifelong.hub import pull
from hf_lifelong.loading import load
from hf_lifelong.training import plot_confused

HERE = Path(__file__).parent
TENSORS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tiny_image_folder):
    return tiny_image_folder("dinov2")


@pytest.fixture(scope="module")
def learned(folder, tmp_path_factory):
    """The folder of two tasks of images."""
    out = tmp_path_factory.mktemp("images") / "out"
    tasks = [pictures(), pictures("flags", ("blue", "white", "grey"), base=90)]
    make_trainer(folder, out, tasks).train()
    return out


def turned(image):
    return image.rotate(90 * int(torch.randint(4, (1,))))


def test_a_transform_changes_what_is_trained_on_and_nothing_else(folder, tmp_path):
    seen = []

    def dark(image):
        seen.append(np.asarray(image).mean())
        return Image.fromarray(np.asarray(image) // 2)

    for name, transform in (("plain", None), ("dark", dark)):
        make_trainer(folder, tmp_path / name, [pictures(transform=transform)]).train()
    plain, other = (load_file(tmp_path / name / TENSORS) for name in ("plain", "dark"))
    signature = [name for name in plain if "signature" in name]
    assert signature and all(torch.equal(plain[name], other[name]) for name in signature)
    assert not torch.equal(*(tensors[next(n for n in plain if "bank_B" in n)] for tensors in (plain, other)))
    assert len(seen) == 1 + 6 * 8 - 2 * 2  # the first row once before, then 6 steps over batches of 8, 8 and 6 rows


class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_with_a_transform_ends_as_one_that_was_not(workers, folder, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "dataloader_num_workers": workers}
    make_trainer(folder, tmp_path / "whole", [pictures(transform=turned)], **options).train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(folder, tmp_path / "cut", [pictures(transform=turned)], callbacks=[Killed()], **options).train()
    make_trainer(folder, tmp_path / "cut", [pictures(transform=turned)], **options).train(resume_from_checkpoint=True)
    assert (tmp_path / "cut" / TENSORS).read_bytes() == (tmp_path / "whole" / TENSORS).read_bytes()


def test_the_kind_follows_from_the_columns(folder, tmp_path):
    from peft import get_peft_model
    from transformers import AutoModel

    from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments

    model = get_peft_model(AutoModel.from_pretrained(folder), DriftAdapterConfig(r=2, members=2))
    args = DriftTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    processor = AutoImageProcessor.from_pretrained(folder)
    trainer = DriftTrainer(model, args, train_dataset=pictures().train, processing_class=processor)
    assert trainer.tasks[0].kind == "image-classification"


TEXT = Task("films", "text-classification", Dataset.from_dict({"text": ["a", "b"] * 4, "label": [0, 1] * 4}))


def test_one_base_has_one_sort_of_input(folder, bert_folder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="Task `films`: `kind` is 'text-classification', whose inputs are text, but"):
        make_trainer(folder, tmp_path, [pictures(), TEXT]).train()
    with pytest.raises(ValueError, match="`kind` is 'image-classification', whose inputs are image, but the base"):
        make_trainer(bert_folder, tmp_path, [TEXT, pictures()], processor=tokenizer).train()
    with pytest.raises(ValueError, match=r"give the image processor of the base \(`AutoImageProcessor`\)"):
        make_trainer(folder, tmp_path, [pictures()], processor=tokenizer)
    with pytest.raises(ValueError, match=r"give the tokenizer of the base \(`AutoTokenizer`\)"):
        make_trainer(bert_folder, tmp_path, [TEXT], processor=AutoImageProcessor.from_pretrained(folder))
    assert not (tmp_path / TENSORS).exists()


def test_a_bad_image_is_refused_with_the_row_of_the_user(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:500])
    paths = [str(tmp_path / "good.png")] * 20
    paths[13] = str(tmp_path / "bad.png")
    data = Dataset.from_dict({"photo": paths, "label": ["a", "b"] * 10})
    task = Task("photos", "image-classification", data, columns={"image": "photo"})
    with pytest.raises(ValueError, match=r"Task `photos`: `train`, row 13, column 'photo': the image cannot be used"):
        make_trainer(folder, tmp_path / "out", [task]).train()
    assert not (tmp_path / "out" / TENSORS).exists()


def test_what_the_base_cannot_read_is_refused_before_training(tiny_image_folder, tmp_path):
    vit = tiny_image_folder("vit")
    with pytest.raises(ValueError, match="Task `lights`: the base cannot read what `processing_class` makes"):
        make_trainer(
            vit, tmp_path, [pictures()], processor=ViTImageProcessor(size={"height": 32, "width": 32})
        ).train()
    with pytest.raises(ValueError, match="Task `lights`: `transform` fails on the first image of `train`"):
        make_trainer(vit, tmp_path, [pictures(transform=lambda image: image.size)]).train()
    with pytest.raises(ValueError, match=r"`transform` of task `films` is .*for a task of images only"):
        Task("films", "text-classification", TEXT.train, transform=turned)
    with pytest.raises(ValueError, match="give what changes training images as `transform` of the `Task`"):
        make_trainer(vit, tmp_path, [pictures(train=pictures().train.with_transform(lambda rows: rows))]).train()


def test_the_folder_holds_its_image_processor(learned):
    _, processor = load(learned)
    assert isinstance(processor, type(AutoImageProcessor.from_pretrained(learned)))
    assert processor.size["height"] == 16
    saved = pull(learned)
    assert "preprocessor_config.json" in saved.sizes and saved.knowledge.modality == "image"
    card = (learned / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "image_processor = AutoImageProcessor.from_pretrained(folder)" in card
    assert 'print(answer("photo.jpg", abstain=True))' in card and "tokenizer" not in card.lower()


HOSTILE = {
    "code": ({"auto_map": {"AutoImageProcessor": "evil.Processor"}}, "`auto_map` asks for code"),
    "size": ({"size": {"height": 10**6, "width": 10**6}}, "no image is made that large"),
    "class": ({"image_processor_type": "os.system"}, "no image processor can be made of it"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_image_processor_is_refused(change, message, learned, tmp_path):
    own = Path(shutil.copytree(learned, tmp_path / "own"))
    path = own / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load(own)


def command(*argv):
    result = CliRunner().invoke(app, [str(part) for part in argv])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_command_line_answers_photos_and_forgets(learned, tmp_path):
    for i, row in enumerate(pictures().test):
        row["image"].resize((40, 30)).save(tmp_path / f"photo{i}.png")
    photos = sorted(tmp_path.glob("*.png"))
    lines = [json.loads(line) for line in command("predict", learned, *photos, "--json").splitlines()]
    assert len(lines) == 6 and {line["kind"] for line in lines} == {"image-classification"}
    (tmp_path / "list.txt").write_text("\n".join(map(str, photos)))
    assert command("predict", learned, "--input", tmp_path / "list.txt", "--json").splitlines()[0] == json.dumps(
        lines[0]
    )
    command("forget", learned, "flags", "--output", tmp_path / "less", "--yes")
    rest = [json.loads(line) for line in command("predict", tmp_path / "less", photos[0], "--json").splitlines()]
    assert rest[0]["task"] == "lights" and (tmp_path / "less" / "preprocessor_config.json").exists()
    assert "image-classification" in command("inspect", learned)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["a folder for each label", "a table"])
def test_the_command_line_learns_from_folders_of_pictures(layout, folder, tmp_path):
    names = []
    for i, row in enumerate(pictures().train):
        place = tmp_path / "lights" / (row["label"] if layout == "a folder for each label" else "")
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{i}.png")
        names.append(f"{i}.png,{row['label']}\n")
    if layout == "a table":
        (tmp_path / "lights" / "metadata.csv").write_text("file_name,label\n" + "".join(names))
    config = tmp_path / "learn.yaml"
    config.write_text(f"""\
model_name_or_path: {folder}
members: 2
r: 2
tasks:
  - name: lights
    kind: image-classification
    dataset: {tmp_path / "lights"}
""")
    out = tmp_path / "out"
    command("learn", "--config", config, "--output_dir", out, "--max_steps", 4, "--save_strategy", "no")
    (photo,) = (tmp_path / "lights").rglob("0.png")
    (line,) = command("predict", out, photo, "--json").splitlines()
    assert json.loads(line)["answer"] in ("red", "green")
    assert json.loads((out / "adapter_config.json").read_text())["knowledge"]["tasks"][0]["labels"] == ["green", "red"]


def test_pictures_of_what_is_confused_are_drawn_where_one_asks_for_them(folder, tmp_path):
    out = tmp_path / "out"
    other = pictures("flags", ("blue", "white", "grey"), base=90)
    # Half of its test pictures are those of the other task.
    mixed = concatenate_datasets([pictures().test.select_columns(["image"]), other.test.select_columns(["image"])])
    mixed = mixed.add_column("label", ["blue"] * len(mixed))
    trainer = make_trainer(folder, out, [pictures(), replace(other, test=mixed)])
    trainer.train()
    assert {path.name for path in out.glob("*.png")} == {"accuracy_matrix.png", "confusion.png"}
    found = plot_confused(trainer, tmp_path / "confused.png", most_pairs=1, most_pictures=4)
    routed = trainer.evaluator.routed(trainer.prepared(trainer.tasks[1]), trainer.prepared(trainer.tasks[1]).test)
    assert found["flags", "lights"] == routed.count("lights") >= 5
    assert np.asarray(Image.open(tmp_path / "confused.png")).std() > 10


def test_a_base_of_texts_has_no_pictures_to_show(bert_folder):
    trainer = SimpleNamespace(model=get_peft_model(AutoModel.from_pretrained(bert_folder), DriftAdapterConfig()))
    with pytest.raises(ValueError, match="only a base that takes images"):
        plot_confused(trainer, "confused.png")


def test_two_processes_learn_images(folder, tmp_path):
    script = (HERE / "ddp_image_script.py", folder, tmp_path)
    launch = [sys.executable, HERE.parent / "two_ranks.py", *script]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["scores"]["eval_lights_accuracy"] > 0.5
