"""A network of a user's own, without attention, as a base that is trained whole."""

import torch
from learned import learn_task
from peft import get_peft_model
from plain_network import PlainConfig, PlainNetwork

from hf_lifelong import DriftAdapterConfig, predict


def test_members_change_every_layer_and_rows_answer_as_alone(tmp_path):
    PlainNetwork(PlainConfig(hidden_size=16)).save_pretrained(tmp_path)
    base = PlainNetwork.from_pretrained(tmp_path)
    assert base.layers[0].linear.weight.std() > 0.2  # He's, not the .02 of transformers
    model = get_peft_model(base, DriftAdapterConfig(r="full", members=2, trunk_depth=0.0, signature_rank=4))
    assert model.targeted_module_names == ["layers.0.linear", "layers.1.linear"]
    for seed, labels in enumerate((("0", "1"), ("2", "3", "4"))):
        learn_task(model, f"task {seed}", "image-classification", labels, seed=seed)
    model.eval()
    images, group = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    together = predict(model, {"pixel_values": images}, "oracle", group=group).scores
    for i, scores in enumerate(together):
        alone = predict(model, {"pixel_values": images[i : i + 1]}, "oracle", group=int(group[i])).scores[0]
        torch.testing.assert_close(scores[:, : alone.shape[1]], alone, rtol=0, atol=1e-5)
