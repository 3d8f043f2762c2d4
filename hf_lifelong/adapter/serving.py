"""Which LoRA adapters the servers vLLM and LoRAX load, according to their documentation, code and pull requests.

Nothing here was tried on a server. What vLLM takes of classifiers was merged in August 2026
(https://github.com/vllm-project/vllm/pull/53555) and September 2026 (https://github.com/vllm-project/vllm/pull/57148).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from peft import LoraConfig

# vLLM: the values above 1 that `--max-lora-rank` accepts, its default, and model types that its list of supported
# models gives without LoRA.
_VLLM_RANKS, _VLLM_DEFAULT_RANK = (8, 16, 32, 64, 128, 256, 320, 512), 16
_VLLM_WITHOUT_LORA = frozenset({"bloom", "falcon", "gpt2", "gpt_neox", "gptj", "mpt"})
# vLLM: encoders that it adapts, and heads that it reads from `modules_to_save`.
_VLLM_ENCODERS, _VLLM_HEADS = frozenset({"modernbert"}), frozenset({"classifier", "score"})
# LoRAX: the ranks that all of its kernels support (it pads others to a multiple of 16, and uses no kernels above the
# last), and the modules that it adapts.
_LORAX_RANKS = (8, 16, 32, 64, 128)
_QKV_GATED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_LORAX_MODULES = {
    "gemma": _QKV_GATED,
    "gpt2": frozenset({"c_attn", "c_proj", "c_fc"}),
    "llama": _QKV_GATED,
    "mistral": _QKV_GATED,
    "phi": frozenset({"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    "phi3": frozenset({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "qwen2": _QKV_GATED,
}


def serving_problems(config: LoraConfig, model_type: str, layers: int) -> list[str]:
    """The problems that keep vLLM or LoRAX from serving a LoRA folder, each with its fix.

    Args:
        config (`LoraConfig`): The folder's configuration, whose `target_modules` are full names of modules.
        model_type (`str`): `model_type` of the base model.
        layers (`int`): Number of layers of the base model.
    """
    if config.task_type != "CAUSAL_LM":
        return list(_encoder_problems(config, model_type))
    return [*_vllm_problems(config.r, model_type), *_lorax_problems(config, model_type, layers)]


def _encoder_problems(config: LoraConfig, model_type: str) -> Iterator[str]:
    heads = config.modules_to_save or ()
    if set(heads) - _VLLM_HEADS:
        yield f"vLLM reads the heads {sorted(_VLLM_HEADS)}, not {list(heads)}; LoRAX reads none."
    elif heads:
        yield (
            f"vLLM reads the head {list(heads)} since August 2026 (pull request 53555), if the base is loaded with as "
            "many labels; before that it refuses the folder. LoRAX reads no head."
        )
    if model_type in _VLLM_ENCODERS:
        yield (
            f"vLLM adapts `{model_type}` since September 2026 (pull request 57148) and gives pooled states, to which "
            "you apply the head; LoRAX adapts no encoder."
        )
        yield from _vllm_problems(config.r, model_type)
    else:
        yield f"vLLM lists no LoRA for the encoder `{model_type}`, and LoRAX adapts no encoder; serve it with PEFT."


def _vllm_problems(rank: int, model_type: str) -> Iterator[str]:
    if model_type in _VLLM_WITHOUT_LORA:
        yield f"vLLM lists no LoRA for `{model_type}`; serve it with PEFT."
    elif rank > _VLLM_RANKS[-1]:
        most = _VLLM_RANKS[-1]
        yield f"vLLM serves ranks up to {most}, this is {rank}; export with `rank={most}` or less."
    elif rank > _VLLM_DEFAULT_RANK:
        enough = next(r for r in _VLLM_RANKS if r >= rank)
        yield (
            f"vLLM refuses rank {rank} unless it is started with `--max-lora-rank {enough}`; do so, or export with "
            f"`rank={_VLLM_DEFAULT_RANK}`."
        )


def _lorax_problems(config: LoraConfig, model_type: str, layers: int) -> Iterator[str]:
    adapted = _LORAX_MODULES.get(model_type)
    if adapted is None:
        yield f"LoRAX documents no modules of `{model_type}` that it adapts; serve it with vLLM or PEFT."
        return
    carriers = defaultdict(set)
    for name in config.target_modules or ():
        _, layer, module = re.split(r"\.(\d+)\.", name, maxsplit=1)
        carriers[module].add(int(layer))
    unknown = sorted(module for module in carriers if module.rsplit(".", 1)[-1] not in adapted)
    if unknown:
        yield f"LoRAX leaves out {unknown} of `{model_type}`; train with `exclude_modules={unknown}`."
    if any(len(adapted_layers) < layers for adapted_layers in carriers.values()):
        yield (
            "LoRAX leaves out a module unless all layers of the base adapt it, and those of the trunk adapt none: it "
            "would answer as the base does. Train with `trunk_depth=0`, or serve it with vLLM or PEFT."
        )
    padded = 8 if config.r <= 8 else -(-config.r // 16) * 16
    if padded < _LORAX_RANKS[-1] and padded not in _LORAX_RANKS:
        lower = max(r for r in _LORAX_RANKS if r < padded)
        yield f"LoRAX has kernels for ranks {list(_LORAX_RANKS)}, not for {config.r}; export with `rank={lower}`."
