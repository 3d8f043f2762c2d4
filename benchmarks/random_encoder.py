"""An encoder in the shape of all-minilm-l6 with random weights, for machines that cannot download one.

    python benchmarks/random_encoder.py FOLDER [--tiny]

Its tokenizer learns its words from the texts in `recipes/data`.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from streams import load_task
from transformers import AutoConfig, AutoModel, BertTokenizer

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = 2000


def save(folder: str, shape: dict[str, Any]) -> None:
    """Writes a model and its tokenizer into a folder."""
    texts = load_task("sentiment_sentences", None, seed=0, train_size=1000)["train"]["text"]
    BertTokenizer().train_new_from_iterator([texts[:]], WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("bert", **shape), dtype=torch.float32).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tiny", action="store_true", help="a shape of seconds, to see that a benchmark runs")
    args = parser.parse_args()
    save(args.folder, TINY if args.tiny else SHAPE)


if __name__ == "__main__":
    main()
