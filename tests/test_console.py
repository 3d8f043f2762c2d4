"""What commands and recipes leave out of what libraries print: what is named, and nothing else."""

import logging
import warnings

from hf_lifelong.utils.console import mute_notes


def test_notes_that_nobody_can_act_on_are_left_out_by_name(monkeypatch, caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    monkeypatch.setattr(logger, "filters", [])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        mute_notes()
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed.", FutureWarning, stacklevel=1)
        warnings.warn("`other` is deprecated.", FutureWarning, stacklevel=1)
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no kernels")
        logger.warning("Another warning.")
    assert [str(warning.message) for warning in seen] == ["`other` is deprecated."]
    assert [record.message for record in caplog.records] == ["Another warning."]
