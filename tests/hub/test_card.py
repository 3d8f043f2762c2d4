"""The text of a card: every section, for every number of tasks, and with whatever is not known."""

import re
from dataclasses import fields, replace

import pytest
from card_helpers import HEADINGS, check_whole, headings, matches

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

| task | kind | labels | members | training data | started from |
| :-- | :-- | :-- | :-- | :-- | :-- |
| **sst2** | text-classification | negative, positive | 5 | \
[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue) (sst2), 2,000 rows | fresh |
| **squad** | question-answering |  | 5 | \
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

![…](confusion.png)

## Size

| weights | size |
| :-- | --: |
| base model | 90.9 MB |
| adapter, all tasks | 8.0 MB (8.8% of the base) |
| of it sst2 | 3.9 MB |
| of it squad | 4.1 MB |

## Adapter

- **Members:** `r` 8, `lora_alpha` 16, `lora_dropout` 0, `target_modules` query, value, `members` 5
- **Trunk:** the bottom 3 of 6 layers …
- **Retrieval and answer:** `retrieval` signature, `uncertainty` entropy, `answer` merged, `per_batch` off, \
`signature_rank` 256, `signature_size` 2,048, `signature_shrinkage` 0.05
- **Inputs:** `max_length` 128, `stride` 32

## Training

- **Each task:** `num_train_epochs` 3, `per_device_train_batch_size` 16, `learning_rate` 0.002
- **Drift:** `gradient_noise` 0.05, `drift_dropout` on
- **Grouping:** `grouping` performance
- **Hardware:** 2 CPU cores
- **Time:** 14 min 40 s
- **Versions:** hf_lifelong 0.1.0, torch 2.11.0, transformers 5.23.0, peft 0.22.0

To do it again:

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
        assert re.search(rf"^\| \*\*task-{i}\*\* \| text-classification \| no, yes \| 2 \|", text, re.M)
        cells = [f"{0.95 - 0.01 * (i - j):.3f}" if j <= i else "·" for j in range(count)]
        assert f"| after task-{i} | {' | '.join(cells)} |" in text
    assert text.count("| majority class |") == 1
    assert text.count("<details>") == text.count("</details>") == (count == 15)
    assert ("BWT ↑" in text) == ("| forgetting ↓" in text) == ("retrieval accuracy ↑" in text) == (count > 1)
    assert ("abstain=True" in text) == (count > 1)
    assert text.count(f"| accuracy ↑ | {' | '.join(f'task-{i}' for i in range(count))} |") == 1
    assert ("| accuracy ↑ |\n" in text) == (count == 15)


def test_scores_from_before_the_last_task_say_so(stream, encoder_config):
    knowledge = stream(4)
    matrix = AccuracyMatrix.from_dict(knowledge.scores)
    matrix.replace_last({"task-3": 0.5})
    knowledge.scores = matrix.to_dict()
    text = check_whole(model_card(knowledge, encoder_config))
    assert " 0.930 (scored after task-2) |" in text and " 0.500 |" in text


def test_different_metrics_are_named_for_each_task(stream, encoder_config):
    knowledge = stream(4)
    knowledge.scores["metrics"][1] = "f1"
    text = check_whole(model_card(knowledge, encoder_config))
    assert "| score ↑ |\n" in text and " 0.930 (f1) |" in text and " 0.950 (accuracy) |" in text
    assert "|  | task-0 (accuracy ↑) | task-1 (f1 ↑) | task-2 (accuracy ↑) |" in text


def test_confusion_of_many_groups_is_folded(stream, encoder_config):
    knowledge = stream(5)
    names = knowledge.names
    knowledge.scores["confusion"] = {name: {name: 0.75, names[0]: 0.25} for name in names[1:]} | {
        names[0]: {names[0]: 1}
    }
    text = check_whole(model_card(knowledge, encoder_config))
    assert "<summary>Confusion between 5 groups</summary>" in text
    assert "| task-0 | **1.000** | 0 | 0 | 0 | 0 |\n| task-1 | 0.250 | **0.750** | 0 | 0 | 0 |" in text


def test_sizes_of_many_tasks_are_a_range(stream, encoder_config):
    same = CardFacts(task_sizes=dict.fromkeys((f"task-{i}" for i in range(5)), 3_900_000))
    assert "| of it each task | 3.9 MB |" in str(model_card(stream(5), encoder_config, same))
    other = replace(same, task_sizes={**same.task_sizes, "task-2": 4_500_000})
    assert "| of it each task | 3.9 MB to 4.5 MB |" in str(model_card(stream(5), encoder_config, other))


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
        "Adapter",
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
    assert "1 of 2 tasks was scored" in text and "| after squad | · | 0.500 |" in text
    assert "BWT" not in text and "oracle" not in text
    found = [r for r in card.data.eval_results if r.task_type != "continual-learning"]
    assert [(r.dataset_config, r.metric_name, r.metric_value) for r in found] == [
        ("sst2", "accuracy (scored after sst2)", 0.9),
        ("squad", "f1", 0.5),
    ]
    alone = AccuracyMatrix()
    alone.add("sst2", "accuracy", 0.5, {"sst2": 0.9})
    two_tasks.scores = alone.to_dict()
    assert "1 of 2 tasks was scored" in str(model_card(two_tasks, encoder_config, two_facts))


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


def test_tasks_that_came_back_name_their_group(stream, encoder_config):
    knowledge = stream(3)
    knowledge.tasks[2] = replace(knowledge.tasks[2], group="task-0")
    text = check_whole(model_card(knowledge, encoder_config))
    assert re.findall(r"^\| \*\*(\S+)\*\* \|.* no, yes \| (\S+) \|", text, re.M) == [
        ("task-0", "task-0"),
        ("task-1", "task-1"),
        ("task-2", "task-0"),
    ]


def test_layers_of_all_blocks_are_named_once(stream, encoder_config):
    names = [f"encoder.layer.{i}.{part}" for i in range(12) for part in ("attention.self.query", "output.dense")]
    text = str(model_card(stream(1), {**encoder_config, "target_modules": names}))
    assert "`target_modules` encoder.layer.N.attention.self.query, encoder.layer.N.output.dense," in text


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (None, None),
        (["task-1", "task-0", "forgotten"], None),
        (["task-1"], "Of the last session, which learned **task-1**. The other tasks may"),
        (["forgotten"], "Of the last session, which learned 0 of its tasks."),
    ],
)
def test_settings_of_a_session_are_not_taken_for_those_of_all_tasks(stream, encoder_config, session, said):
    facts = CardFacts(session=session, training={"learning_rate": 1e-3}, hardware="2 CPU cores", command="python x.py")
    text = check_whole(model_card(stream(2), encoder_config, facts))
    assert ("session" in text) == (said is not None)
    assert said is None or f"## Training\n\n{said}" in text
    assert "Training" not in headings(str(model_card(stream(2), encoder_config, CardFacts(session=session))))


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
