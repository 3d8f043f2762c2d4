"""What a command or a recipe prints: what it does, not what the libraries below it note."""

from __future__ import annotations

import logging
import warnings


def mute_notes() -> None:
    """Leaves out, by name, notes of libraries that nobody who runs a command can act on. To be called before PEFT is
    imported, because one of them comes with it."""
    # PEFT asks transformers for a property under its old name, each time that an adapter is put on a model.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # bitsandbytes, which PEFT imports where it is installed, misses a faster kernel for 4 bits on a CPU.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda note: "gemm_4bit_forward" not in note.msg)


def mute_bars() -> None:
    """Leaves out the bars of what takes moments: reading data, encoding it, loading weights."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
