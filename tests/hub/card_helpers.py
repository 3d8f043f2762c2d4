"""What holds for every card, and what is read off one."""

import ast
import re

from huggingface_hub import ModelCard

# A folder of no machine: what a card must not show.
HOME = "/".join(["", "home", "ada"])

HEADINGS = ["Quickstart", "What it learned", "How well it keeps it", "Adapter", "Limits", "Citation"]


def matches(text, pattern):
    assert re.fullmatch(re.escape(pattern).replace("…", "[^\n]+"), text), text


def headings(text):
    return re.findall(r"^## (.*)$", text, flags=re.M)


def check_whole(card):
    """What holds for every card."""
    text = str(card)
    assert str(ModelCard(text)) == text
    code = re.search(r"```python\n(.*?)\n```", text, flags=re.S)[1]
    assert code.startswith("import hf_lifelong")
    ast.parse(code)
    assert not re.search(r"\b(None|nan|inf)\b", text)
    assert not re.search(r"(?<![\w/:.<])(/|~/|[A-Z]:\\)\w", text.replace("https://", ""))
    assert not re.search(r"^## .*\n\n(##|\Z)", text, flags=re.M), "a heading with nothing below"
    assert "\n\n\n" not in text
    assert text.encode().decode() == text
    return text


def results(card):
    """(task type, data set configuration, metric) → value, as read back from the text."""
    found = ModelCard(str(card)).data.eval_results or []
    assert all(result.verified is None for result in found)
    return {(r.task_type, r.dataset_config, r.metric_type): r.metric_value for r in found}
