"""Bases that take images: which layers carry adapters, what is pooled, what is refused, and what is exported."""

import json

import pytest
import torch
from learned import learn_task
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, pipeline
from transformers import ViTImageProcessor as Processor

from hf_lifelong import DriftAdapterConfig, export, knowledge_of, predict
from hf_lifelong.adapter import trunk_features
from hf_lifelong.memory import estimate_memory

IN_TABLE = ("vit", "deit", "dinov2", "dinov2_with_registers", "beit", "siglip_vision_model")
TASKS = {"cats": ("image-classification", ("cat", "dog")), "cars": ("image-classification", ("bus", "car", "van"))}
STAGED = {
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "convnext": {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "image_size": 16},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
    "mobilevit": {"image_size": 32, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16]},
}


@pytest.fixture(scope="session")
def images():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def make_image_model(tiny_image_folder):
    """`make_image_model(model_type, **config)`: a tiny base with an adapter that knows two tasks of images."""

    def make(model_type, base=None, **config):
        model = AutoModel.from_pretrained(tiny_image_folder(model_type, **(base or {})), dtype=torch.float32)
        model = get_peft_model(model, DriftAdapterConfig(**{"r": 2, "members": 2, "signature_rank": 4, **config}))
        for seed, (name, task) in enumerate(TASKS.items()):
            learn_task(model, name, *task, seed=seed)
        return model.eval()

    return make


@pytest.mark.parametrize("model_type", [*IN_TABLE, "dinov3_vit", "clip_vision_model"])
def test_rows_that_are_mixed_answer_as_alone(model_type, make_image_model, images):
    model = make_image_model(model_type)
    group = torch.tensor([0, 1, 1, 0, 1])
    mixed = predict(model, {"pixel_values": images}, "oracle", group=group)
    for i in range(len(images)):
        alone = predict(model, {"pixel_values": images[i : i + 1]}, "oracle", group=int(group[i]))
        count = alone.scores.shape[2]
        assert torch.allclose(mixed.scores[i, :, :count], alone.scores[0], atol=1e-5)
        assert not mixed.scores[i, :, count:].any()
    other = predict(model, {"pixel_values": images}, "oracle", group=1 - group)
    assert not torch.equal(other.scores, mixed.scores)


@pytest.mark.parametrize("policy", ["signature", "cascade", "uncertainty"])
def test_every_policy_chooses_for_images(policy, make_image_model, images):
    out = predict(make_image_model("beit"), {"pixel_values": images}, policy, novelty=policy != "uncertainty")
    assert out.group.shape == (5,) and out.scores.isfinite().all()


def test_relative_positions_that_all_rows_share_stay_shared(make_image_model, images):
    """As many images as heads: by its shape a table of positions could be taken for one row of each image."""
    model = make_image_model("beit", base={"use_relative_position_bias": True})
    for count in (1, 2, 3):
        rows = predict(model, {"pixel_values": images[:count]}, "uncertainty")
        alone = predict(model, {"pixel_values": images[:1]}, "uncertainty")
        width = alone.scores.shape[2]
        assert torch.allclose(rows.scores[0, :, :width], alone.scores[0], atol=1e-5)


@pytest.mark.parametrize("model_type", IN_TABLE)
def test_adapters_lie_above_two_thirds_of_the_layers(model_type, tiny_image_folder):
    base = AutoModel.from_pretrained(tiny_image_folder(model_type))
    config = get_peft_model(base, DriftAdapterConfig(r=2)).peft_config["default"]
    named = {name.rsplit(".", 1)[-1] for name in config.target_modules}
    out = "out_proj" if model_type == "siglip_vision_model" else "o_proj"
    assert named == {"q_proj", "k_proj", "v_proj", out, "fc1", "fc2"}
    assert len(config.target_modules) == 6 and all(".3." in f".{name}" for name in config.target_modules)


def test_signatures_read_the_patches_of_the_last_three_states_of_the_trunk(make_image_model, images):
    model = make_image_model("dinov2_with_registers", base={"num_register_tokens": 3})
    features = trunk_features(model, {"pixel_values": images})
    with torch.no_grad(), model.disable_adapter():
        states = model(pixel_values=images, output_hidden_states=True).hidden_states[1:4]
    first, second, third = (state[:, 4:].mean(1) for state in states)
    assert torch.allclose(features, torch.cat([first, second - first, third - second], 1), atol=1e-6)


def test_a_trunk_of_few_layers_has_as_many_states_as_there_are(make_image_model):
    for trunk_depth, depths in ((0.0, [0]), (0.25, [0, 1]), (0.75, [1, 2, 3])):
        model = make_image_model("vit", trunk_depth=trunk_depth)
        assert knowledge_of(model).depths == depths


def test_staged_bases_are_refused_with_the_reason():
    for model_type, sizes in STAGED.items():
        base = AutoModel.from_config(AutoConfig.for_model(model_type, **sizes))
        with pytest.raises(
            ValueError, match=r"runs in stages of different widths .*Give a base whose layers are alike"
        ):
            get_peft_model(base, DriftAdapterConfig())


def test_a_base_with_a_head_of_its_own_is_refused():
    head = AutoModelForImageClassification.from_config(
        AutoConfig.for_model("vit", hidden_size=24, num_attention_heads=2)
    )
    with pytest.raises(ValueError, match="has a head of its own"):
        get_peft_model(head, DriftAdapterConfig())


WRONG = {
    "tokens": ({"input_ids": torch.ones(1, 4, dtype=torch.long)}, "has no `pixel_values`, only .*image_processor"),
    "one image": ({"pixel_values": torch.zeros(3, 16, 16)}, r"shape \(3, 16, 16\); give floats, a row for each input"),
    "bytes": ({"pixel_values": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, "are torch.uint8 of shape"),
    "a list": ({"pixel_values": [1]}, "`pixel_values` of `batch` is a list, no tensor"),
}


@pytest.mark.parametrize(("batch", "message"), WRONG.values(), ids=list(WRONG))
def test_what_is_no_batch_of_images_is_refused(batch, message, make_image_model):
    with pytest.raises(ValueError, match=message):
        predict(make_image_model("vit"), batch)


def test_an_adapter_of_texts_is_refused_on_a_base_of_images(make_image_model, tmp_path, tiny_image_folder):
    make_image_model("vit").save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["knowledge"]["base"]["modality"] == "image"
    for task in config["knowledge"]["tasks"]:
        task["kind"] = "text-classification"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="whose inputs are text, but the base takes image"):
        PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_image_folder("vit")), tmp_path)


@pytest.mark.filterwarnings("ignore:.*loads with PEFT, but")
@pytest.mark.parametrize("model_type", [*IN_TABLE, "dinov3_vit"])
def test_an_exported_group_answers_as_its_members(model_type, make_image_model, images, tmp_path, monkeypatch):
    """By the code of its card; through a stock head where one is linear in what ours reads."""
    from PIL import Image

    model = make_image_model(model_type)
    report = export(model, "cars", tmp_path / "lora")
    stock = model_type in ("vit", "deit", "dinov2", "dinov2_with_registers")
    assert (report.form.auto_class == "AutoModelForImageClassification") == stock
    picture = Image.fromarray((torch.rand(16, 16, 3) * 255).byte().numpy())
    picture.save(report.folder / "photo.jpg")
    picture = Image.open(report.folder / "photo.jpg")
    monkeypatch.chdir(report.folder)
    names = {}
    code = (report.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    with torch.no_grad():
        exec(code, names)
    batch = names["image_processor"]([picture], return_tensors="pt")
    root = next(module for module in model.modules() if hasattr(module, "drift_closed_weight"))
    root.drift_closed_weight["default"].data.zero_()  # the closed-form head is no part of a LoRA
    root.drift_closed_bias["default"].data.zero_()
    root.refresh()
    expected = predict(model, batch, "oracle", group="cars").scores[0, 0]
    assert torch.allclose(names["logits"].softmax(-1)[0], expected, atol=1e-5)
    if stock:
        merged = names["model"].merge_and_unload()
        merged.config.id2label = dict(enumerate(TASKS["cars"][1]))
        best = pipeline("image-classification", model=merged, image_processor=names["image_processor"])(picture)[0]
        assert best["label"] == TASKS["cars"][1][int(expected.argmax())]
        assert best["score"] == pytest.approx(float(expected.max()), abs=1e-4)


def test_a_pipeline_takes_images_in_every_form(make_image_model, tmp_path):
    import numpy as np
    from PIL import Image

    answer = pipeline(
        "lifelong", model=make_image_model("dinov2"), image_processor=Processor(size={"height": 16, "width": 16})
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "photo.png")
    forms = [
        picture,
        pixels,
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        (tmp_path / "photo.png").read_bytes(),
    ]
    one = answer(picture)
    assert one["kind"] == "image-classification" and one["answer"] in ("cat", "dog", "bus", "car", "van")
    assert [answer(form) for form in forms] == [one] * 5
    assert list(answer(iter(forms), batch_size=5)) == answer(forms)
    with pytest.raises(ValueError, match=r"inputs\[3\]: the image cannot be used .*nowhere.jpg"):
        answer([picture, pixels, picture, "nowhere.jpg"], batch_size=2)
    with pytest.raises(ValueError, match=r"inputs\[1\] is 7, which is no known form of input; give an image"):
        answer([picture, 7])
    with pytest.raises(ValueError, match="`image_processor` is missing"):
        pipeline("lifelong", model=make_image_model("dinov2"))(picture)


def test_memory_grows_with_the_side_of_images(tiny_image_folder):
    config = DriftAdapterConfig(r=2, members=2)
    small, large = (
        estimate_memory(tiny_image_folder("dinov2"), config, tasks=1, length=side, device="cpu") for side in (None, 32)
    )
    assert small.settings["length"] == 16
    assert large.base == small.base and large.activations > 2 * small.activations
    assert large.training > small.training and large.answering > small.answering


def test_a_manifest_without_modality_is_of_texts(tiny_folder):
    model = get_peft_model(AutoModel.from_pretrained(tiny_folder("bert")), DriftAdapterConfig(r=2))
    assert "modality" not in knowledge_of(model).base
