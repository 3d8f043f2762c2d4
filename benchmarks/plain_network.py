"""A network of linear layers and ReLUs on whole images, as a base that transformers saves and loads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class PlainConfig(PreTrainedConfig):
    model_type = "plain-network"

    def __init__(self, image_size: int = 8, hidden_size: int = 64, num_hidden_layers: int = 2, **kwargs: Any) -> None:
        self.image_size = self.patch_size = image_size  # an image is one patch
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        super().__init__(**kwargs)


class PlainLayer(nn.Module):
    """A linear layer and a ReLU."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states).relu()


class PlainNetwork(PreTrainedModel):
    """A random projection of the pixels, then `layers`."""

    config_class = PlainConfig
    main_input_name = "pixel_values"

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Conv2d(3, config.hidden_size, config.image_size)
        self.layers = nn.ModuleList(PlainLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        hidden = self.embeddings(pixel_values).flatten(2).mT
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=hidden)
