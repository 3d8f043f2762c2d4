"""What inputs consist of: the model inputs of a base, and how rows become a batch of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MODEL_INPUTS: tuple[str, ...] = ("input_ids", "token_type_ids", "attention_mask")


class Modality(ABC):
    """One sort of input. A base takes one, and every kind of task belongs to one. Stateless.

    Attributes:
        name (`str`): As a manifest names it.
        inputs (`tuple[str, ...]`): Columns of features that are model inputs, the base's `main_input_name` first.
        processor (`str`): The argument of `pipeline` for what turns inputs into tensors.
        processor_class, auto_class (`str`): Its base class in `transformers`, and the class that loads it.
        files (`tuple[str, ...]`): Files any of which makes a folder hold one.
        how (`str`): How a batch is made, for error messages.
        tensor (`tuple[bool, int]`): Whether the main input has floats, and its number of dimensions.
        padded (`bool`): Whether the rows of a batch are padded to one length.
        augmented (`Callable`, *optional*): `augmented(features, transform, seed)` gives training rows whose inputs a
            function changes; `None` where there are none.
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    processor: ClassVar[str]
    processor_class: ClassVar[str]
    auto_class: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    how: ClassVar[str]
    tensor: ClassVar[tuple[bool, int]]
    padded: ClassVar[bool]
    augmented: ClassVar[Callable[..., Any] | None] = None

    @property
    def processor_noun(self) -> str:
        """What the processor is called in messages."""
        return self.processor.replace("_", " ")

    def fits(self, processor: Any) -> bool:
        """Whether an object can turn inputs into tensors."""
        import transformers

        return isinstance(processor, getattr(transformers, self.processor_class))

    @abstractmethod
    def is_one(self, value: Any) -> bool:
        """Whether something that can be iterated over is one input, not several."""

    @abstractmethod
    def order(self, features: Mapping[str, Sequence[Any]], count: int) -> list[int]:
        """The order in which `count` rows are best batched, from the column of the main model input."""

    @abstractmethod
    def batch(self, rows: Mapping[str, Sequence[Any]], processor: Any, padding_side: str) -> dict[str, Tensor]:
        """Some rows as tensors.

        Args:
            rows (`dict[str, list]`): Columns of features: model inputs.
            processor: The tokenizer or image processor of the base.
            padding_side (`str`): Side on which rows are padded, where they are.

        Raises:
            DataError: If a row cannot be read; `row` is its position among these rows.
        """


class Text(Modality):
    """Token ids, padded to the longest row of a batch."""

    name = "text"
    inputs = MODEL_INPUTS
    processor = "tokenizer"
    processor_class = "PreTrainedTokenizerBase"
    auto_class = "AutoTokenizer"
    files = ("tokenizer.json", "tokenizer_config.json")
    how = 'give what `tokenizer(texts, padding=True, return_tensors="pt")` gives'
    tensor = (False, 2)
    padded = True

    def is_one(self, value: Any) -> bool:
        return isinstance(value, str | Mapping)

    def order(self, features: Mapping[str, Sequence[Any]], count: int) -> list[int]:
        """Longest first, so that rows of a batch have nearly one length."""
        return np.argsort([-len(ids) for ids in features["input_ids"][:]], kind="stable").tolist()

    def batch(self, rows: Mapping[str, Sequence[Any]], processor: Any, padding_side: str) -> dict[str, Tensor]:
        return dict(processor.pad(dict(rows), return_tensors="pt", padding_side=padding_side))


TEXT = Text()
