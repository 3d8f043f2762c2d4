"""The tokenizer that lies beside an adapter."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..utils.files import DamagedFileError
from ..utils.texts import without_panics
from .errors import reason_of


def read_tokenizer(folder: Path, file: str) -> PreTrainedTokenizerBase:
    """Reads a tokenizer; no code that comes with it is run.

    Args:
        file (`str`): The file that an error names.

    Raises:
        DamagedFileError: when none can be made of the files.
    """
    try:
        with without_panics():
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises no narrower type for a file that it cannot read
        raise DamagedFileError(folder / file, f"no tokenizer can be made of it ({reason_of(error)[1]})") from error
