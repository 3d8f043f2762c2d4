"""The text of a card: every section, for every number of tasks, and with whatever is not known."""

import re
from dataclasses import fields, replace

import pytest
from card_helpers import HEADINGS, check_whole, headings, matches, results

from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CardFacts, model_card
from hf_lifelong.knowledge import KnowledgeBase

# "…" stands for any text in one line.
TWO_TASKS = """
# sentiment-then-qa

A [PEFT](https://huggingface.co/docs/peft) adapter for lifelong learning on the frozen encoder \
[sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2). It has \
learned **2 tasks**, one after another, …

## Quickstart

```python
import hf_lifelong  # …
from peft import AutoPeftModelForFeatureExtraction
from transformers import AutoTokenizer, pipeline

folder = "ada/sentiment-then-qa"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForFeatureExtraction.from_pretrained(folder, dtype="float32")
answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
print(answer("…"))
print(answer({"question": "…", "context": "…"}))
print(answer("…", abstain=True))  # …
```

## What it learned

| task | kind | labels | group | members | training data | started from |
| :-- | :-- | :-- | :-- | :-- | :-- | :-- |
| **sst2** | text-classification | negative, positive | sst2 | 5 | \
[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue) (sst2), 2,000 rows | fresh |
| **squad** | question-answering |  | squad | 5 | \
[rajpurkar/squad](https://huggingface.co/datasets/rajpurkar/squad), 8,000 rows, licence cc-by-sa-4.0 | sst2 |

## How well it keeps it

Shares in [0, 1]; no input came with the name of its task. All are of the test data.

| metric | value | what it is |
| :-- | :-- | :-- |
| average accuracy ↑ | 0.680 | … |
| learning accuracy ↑ | 0.700 | … |
| BWT ↑ | -0.040 | … |
| forgetting ↓ | 0.040 | … |
| retrieval accuracy ↑ | 0.960 | … |
| oracle accuracy ↑ | 0.710 | … |

![…](accuracy_matrix.png)

|  | sst2 (accuracy ↑) | squad (f1 ↑) |
| :-- | --: | --: |
| majority class | 0.500 | 0.100 |
| after sst2 | 0.900 | · |
| after squad | 0.860 | 0.500 |
| oracle (right group given) | 0.900 | 0.520 |
| retrieval (right group chosen) | 0.940 | 0.980 |

## Which group answered

…

| inputs of | sst2 | squad |
| :-- | --: | --: |
| sst2 | **0.940** | 0.060 |
| squad | 0.020 | **0.980** |

## Size

| weights | size |
| :-- | --: |
| base model | 90.9 MB |
| adapter, all tasks | 8.0 MB (8.8% of the base) |
| of it sst2 | 3.9 MB |
| of it squad | 4.1 MB |

## Settings

- **Training:** `num_train_epochs` 3, `per_device_train_batch_size` 16, `learning_rate` 0.002
- **Drift:** `gradient_noise` 0.05, `drift_dropout` on
- **Grouping:** `grouping` performance
- **Adapter:** `r` 8, `lora_alpha` 16, `lora_dropout` 0, `target_modules` query, value, `members` 5
- **Trunk:** the bottom 3 of 6 layers …
- **Retrieval and answer:** `retrieval` signature, `uncertainty` entropy, `answer` merged, `per_batch` off, \
`signature_rank` 64, `signature_size` 1,536, `signature_shrinkage` 0.05
- **Inputs:** `max_length` 128, `stride` 32

## Environment

- **Hardware:** 2 CPU cores
- **Training time:** 14 min 40 s
- **Versions:** hf_lifelong 0.1.0, torch 2.11.0, transformers 5.23.0, peft 0.22.0

To train it again:

```bash
accelerate launch recipes/sentiment_then_qa.py
```

## Limits

- The scores are of one training run; …
- A task is found by where its inputs lie. …
- Inputs unlike those of their task …
- The bottom 3 layers are frozen: …
- What is wrong or unfair …
- `import hf_lifelong` is needed before it can be loaded.

## Citation

DriftNet is the method of "Drift to Remember" (Du et al., [arXiv 2409.13997](https://arxiv.org/abs/2409.13997)). \
This adapter was made with `hf_lifelong`, a reimplementation from the published abstract and claims; it does not \
claim to reproduce the paper's numbers. … 2026/0065155 A1, is published (an application, not a grant); …

```bibtex
@article{drifttoremember,
  title   = {Drift to Remember},
  author  = {Du and others},
  journal = {arXiv preprint arXiv:2409.13997},
  year    = {2024}
}
```
"""


def test_whole_card_of_two_tasks(two_tasks, two_facts, encoder_config):
    card = model_card(two_tasks, encoder_config, two_facts)
    check_whole(card)
    matches(card.text, TWO_TASKS)


@pytest.mark.parametrize("count", [1, 2, 15])
def test_every_number_of_tasks(stream, encoder_config, count):
    text = check_whole(model_card(stream(count), encoder_config, CardFacts()))
    assert headings(text) == HEADINGS
    for i in range(count):
        assert re.search(rf"^\| \*\*task-{i}\*\* \| text-classification \| no, yes \| task-{i} \| 2 \|", text, re.M)
        cells = [f"{0.95 - 0.01 * (i - j):.3f}" if j <= i else "·" for j in range(count)]
        assert f"| after task-{i} | {' | '.join(cells)} |" in text
    assert text.count("| majority class |") == 1
    assert text.count("<details>") == text.count("</details>") == (count == 15)
    assert ("score now ↑" in text) == (count == 15)
    assert ("BWT ↑" in text) == ("| forgetting ↓" in text) == ("retrieval accuracy ↑" in text) == (count > 1)
    assert ("abstain=True" in text) == (count > 1)
    heads = [line for line in text.splitlines() if line.startswith("|  | task-0")]
    assert len(heads) == 1 and heads[0].count("(accuracy ↑)") == count


def test_long_streams_keep_only_the_last_row(stream, encoder_config):
    text = check_whole(model_card(stream(41), encoder_config))
    assert re.findall(r"^\| after (\S+)", text, flags=re.M) == ["task-40"]
    assert "<summary>41 tasks</summary>" in text


def test_without_anything_known(encoder_config):
    text = check_whole(model_card(KnowledgeBase(), {}))
    assert headings(text) == ["Quickstart", "Limits", "Citation"]
    assert "It has learned no task yet." in text and "came from a local folder" in text
    assert "model-index" not in text and "pipeline(" not in text and "base_model" not in text
    assert headings(check_whole(model_card(KnowledgeBase(), encoder_config))) == [
        "Quickstart",
        "Settings",
        "Limits",
        "Citation",
    ]


def test_without_measured_scores(two_tasks, two_facts, encoder_config):
    two_tasks.scores = None
    text = check_whole(model_card(two_tasks, encoder_config, two_facts))
    assert "model-index" not in text and "How well" not in text and "accuracy_matrix.png" not in text
    assert "| score of its own group on validation data ↑ |" in text and "| 0.910 |" in text


def test_partly_measured_scores_say_so(two_tasks, two_facts, encoder_config):
    matrix = AccuracyMatrix.from_dict(two_tasks.scores)
    matrix.replace_last({"squad": 0.5})
    two_tasks.scores = matrix.to_dict()
    card = model_card(two_tasks, encoder_config, two_facts)
    text = check_whole(card)
    assert "1 of 2 tasks were scored" in text and "| after squad | · | 0.500 |" in text
    assert "BWT" not in text and "oracle" not in text
    assert [key for key in results(card) if key[0] != "continual-learning"] == [("question-answering", "squad", "f1")]
    two_tasks.scores = matrix.without("squad").to_dict()
    assert "1 of 2 tasks were scored" in str(model_card(two_tasks, encoder_config, two_facts))


def test_every_missing_fact_leaves_its_own_gap_only(two_tasks, two_facts, encoder_config):
    empty = CardFacts()
    for field in fields(CardFacts):
        facts = replace(two_facts, **{field.name: getattr(empty, field.name)})
        found = headings(check_whole(model_card(two_tasks, encoder_config, facts)))
        assert set(HEADINGS) <= set(found), field.name
    two_tasks.scores = AccuracyMatrix.from_dict({**two_tasks.scores, "confusion": {}}).to_dict()
    facts = replace(two_facts, base_size=None, adapter_size=None, task_sizes={})
    assert not {"Which group answered", "Size"} & set(headings(str(model_card(two_tasks, encoder_config, facts))))


def test_language_models(stream, language_config):
    knowledge = stream(2, "text-generation", template="{title}: {text}")
    facts = CardFacts("ada/writer", "gpt2")
    card = model_card(knowledge, language_config, facts)
    text = check_whole(card)
    assert "from peft import AutoPeftModelForCausalLM" in text and "labels=True" in text
    assert card.data.pipeline_tag == "text-generation"
    assert "<code>{title}: {text}</code> |" in text and "in a chat, give all turns" in text
    assert "`max_new_tokens` 64" in text and "stride" not in text
    assert "labels=True" not in str(model_card(stream(2, "text-generation", ()), language_config, facts))


def test_many_labels_are_folded(stream, encoder_config):
    few, many = (stream(1, labels=tuple(f"label-{i}" for i in range(n))) for n in (10, 150))
    text = str(model_card(few, encoder_config))
    assert "<details>" not in text and "label-8, label-9 |" in text
    text = str(model_card(many, encoder_config))
    assert "| <details><summary>150</summary>label-0, label-1, " in text and "label-149</details> |" in text
    text = str(model_card(stream(1, labels=tuple(map(str, range(100_000)))), encoder_config))
    assert " and 99,800 more</details>" in text and len(text) < 20_000


def test_a_damaged_matrix_is_one_clear_error(two_tasks, encoder_config):
    two_tasks.scores["baseline"] = [float("nan"), 0.1]
    with pytest.raises(ValueError, match=r"baseline.*NaN"):
        model_card(two_tasks, encoder_config)


def test_same_facts_give_the_same_bytes(two_tasks, two_facts, encoder_config):
    first = str(model_card(two_tasks, encoder_config, two_facts))
    again = KnowledgeBase.from_dict(two_tasks.to_dict())
    config = {**encoder_config, "target_modules": {"value", "query"}}
    assert str(model_card(again, config, replace(two_facts))) == first


def test_limits_are_those_that_hold(two_tasks, two_facts, encoder_config):
    text = str(model_card(two_tasks, {**encoder_config, "retrieval": "uncertainty", "per_batch": True}, two_facts))
    assert "by uncertainty alone" in text and "answers a whole batch" in text
    text = str(model_card(two_tasks.with_scored_on({"sst2": "validation"}), encoder_config, two_facts))
    assert "a little too good" in text and "All are of" not in text
    assert "by uncertainty alone" not in text and "in a chat" not in text
