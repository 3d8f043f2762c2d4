"""Silences progress bars and warnings of libraries in the output of commands and recipes."""

from __future__ import annotations

import logging
import warnings


def mute_notes() -> None:
    """Suppresses specific warnings of libraries on which a user of a command cannot act. Call it before PEFT is
    imported, because importing PEFT logs one of them."""
    # PEFT uses the old name of a transformers property whenever an adapter is added to a model.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # PEFT imports bitsandbytes if it is installed, which warns that a faster 4-bit kernel for CPUs is missing.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda note: "gemm_4bit_forward" not in note.msg)


def mute_bars() -> None:
    """Hides the progress bars of short steps: reading data, encoding it, loading weights."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
