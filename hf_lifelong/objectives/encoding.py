"""Encoding a data set in batches."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class BatchEncoder:
    """What `Dataset.map` calls for each batch.

    `map` hashes its function for the cache. It would hash a tokenizer entry by entry in Python, which takes longer
    than encoding a small data set; here the tokenizer is pickled in one piece.

    Args:
        encode (`Callable`): `encode(batch, rows, tokenizer=tokenizer, **options)` gives the columns of a batch.
        tokenizer (`PreTrainedTokenizerBase`): The backbone's tokenizer.
        options: Further keyword arguments of `encode`.
    """

    def __init__(self, encode: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        self.encode, self.tokenizer, self.options = encode, tokenizer, options

    def __call__(self, batch: Mapping[str, list[Any]], rows: Sequence[int]) -> dict[str, list[Any]]:
        return self.encode(batch, rows, tokenizer=self.tokenizer, **self.options)

    def __getstate__(self) -> dict[str, Any]:
        tokenizer = pickle.loads(pickle.dumps(self.tokenizer))
        # What calls leave behind must not change the hash.
        tokenizer.deprecation_warnings = {}
        if tokenizer.is_fast:
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        return {**self.__dict__, "tokenizer": pickle.dumps(tokenizer)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, tokenizer=pickle.loads(state["tokenizer"]))
