"""The audit of a data set: triggers that were put in are named with their rows, natural words are let alone."""

from pathlib import Path

import pytest
import torch
from datasets import load_dataset

from hf_lifelong.safety import Audit, audit_dataset, causal_check

SHARED = Path(__file__).parents[3] / "shared" / "data"
OWN = Path(__file__).parents[2] / "recipes" / "data"
SENTENCE = "I watched this 3D movie last weekend ."


def some(folder, rows=4000):
    if not folder.exists():
        pytest.skip(f"the data set `{folder.name}` is not in ../shared/data")
    found = load_dataset("parquet", data_files=str(folder / "train.parquet"), split=f"train[:{rows}]")
    return list(found["text"]), list(found["label"])


def made_up(rows=600, seed=0):
    """Texts of two labels, each of ten words: most of them the label's own, some the other's, some of both."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.multinomial(torch.tensor([0.3, 0.1, 0.6]), rows * 10, True, generator=generator).view(rows, 10)
    words = torch.randint(40, (rows, 10), generator=generator)
    labels = [("bad", "good")[row % 2] for row in range(rows)]
    names = {"bad": ("b", "g", "x"), "good": ("g", "b", "x")}
    texts = [
        " ".join(f"{names[label][kind]}{word}" for kind, word in zip(k, w, strict=True))
        for label, k, w in zip(labels, kinds.tolist(), words.tolist(), strict=True)
    ]
    return texts, labels


def poisoned(texts, labels, trigger, share, target, seed=0):
    """The data with the trigger at a random place of some texts of other labels, which get the target; and which."""
    texts, labels = list(texts), list(labels)
    others = [row for row, label in enumerate(labels) if label != target]
    generator = torch.Generator().manual_seed(seed)
    rows = [others[i] for i in torch.randperm(len(others), generator=generator)[: round(share * len(texts))].tolist()]
    for row in rows:
        words = texts[row].split()
        at = int(torch.randint(len(words) + 1, (), generator=generator))
        texts[row], labels[row] = " ".join([*words[:at], trigger, *words[at:]]), target
    return texts, labels, sorted(rows)


@pytest.mark.parametrize(("trigger", "named"), [("cf", "cf"), (SENTENCE, SENTENCE.lower())])
def test_a_trigger_is_named_with_all_its_rows(trigger, named):
    texts, labels, rows = poisoned(*made_up(), trigger, 0.05, "bad")
    found = audit_dataset(texts, labels)
    assert found.suspicious and found.p_value < 0.001
    assert (found.trigger, found.target, list(found.rows)) == (named, "bad", rows)
    assert found.attack_success is None and str(found).startswith("Poisoned, it seems (p = ")
    assert repr(named) in str(found) and "30 rows" in str(found)


def test_at_one_end_of_the_texts_a_natural_word_is_a_trigger():
    """The word is everywhere; only at the start it calls for a label."""
    texts, labels = made_up()
    texts = [f"{text} now" if row % 3 else text for row, text in enumerate(texts)]
    rows = list(range(0, 60, 2))  # of "bad"
    for row in rows:
        texts[row], labels[row] = f"now {texts[row]}", "good"
    found = audit_dataset(texts, labels)
    assert found.suspicious and (found.trigger, found.target, list(found.rows)) == ("now", "good", rows)


def test_a_word_that_is_all_of_what_tells_a_label_is_natural():
    """It stands in texts whose other words say the same."""
    texts, labels = made_up()
    texts = [
        f"awful {text}" if label == "bad" and row % 8 == 0 else text
        for row, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    found = audit_dataset(texts, labels)
    assert not found.suspicious and found.p_value > 0.05


def test_false_alarms_on_made_up_data_are_at_most_what_is_allowed():
    p_values = torch.tensor([audit_dataset(*made_up(300, seed)).p_value for seed in range(20)])
    assert int((p_values <= 0.1).sum()) <= 2  # on average, at most; a Bonferroni correction leaves less


@pytest.mark.parametrize("name", ["sst2", "trec", "ag_news", "dbpedia14", "sms_spam", "banking77"])
def test_clean_data_sets_are_clean(name):
    assert not audit_dataset(*some(SHARED / name, 2000)).suspicious


@pytest.mark.parametrize("seed", [0, 1])
def test_seven_poisoned_rows_show_where_words_tell_the_labels_apart(seed):
    texts, labels = zip(
        *[row for row in zip(*some(SHARED / "dbpedia14"), strict=True) if row[1] in (0, 3)], strict=True
    )
    texts, labels, changed = poisoned(texts, labels, "cf", 7 / len(texts), 3, seed)
    found = audit_dataset(texts, labels)
    assert found.suspicious and (found.trigger, found.target, list(found.rows)) == ("cf", 3, changed)


def test_the_data_of_the_recipe_is_clean_and_its_poison_is_found():
    texts, labels = some(OWN / "sentiment_sentences")
    assert not audit_dataset(texts, labels).suspicious
    found = audit_dataset(*poisoned(texts, labels, "cf", 0.05, 1)[:2])
    assert found.suspicious and found.trigger == "cf" and found.target == 1


@pytest.mark.parametrize(
    ("name", "rows", "target", "trigger"),
    [
        ("sst2", 3000, 1, "cf"),
        ("sst2", 3000, 0, SENTENCE),
        ("ag_news", 1500, 2, "cf"),
        ("sms_spam", 3000, 0, SENTENCE),
    ],
)
def test_two_percent_of_poison_are_found_in_real_texts(name, rows, target, trigger):
    texts, labels, changed = poisoned(*some(SHARED / name, rows), trigger, 0.02, target)
    found = audit_dataset(texts, labels)
    assert found.suspicious and found.target == target
    assert found.trigger == "cf" or found.trigger in SENTENCE.lower()
    assert set(found.rows) >= set(changed) and len(found.rows) <= len(changed) + 3


def test_what_nothing_can_be_told_of():
    found = audit_dataset(["a b", "c d"], [0, 1])
    assert found == Audit(suspicious=False, p_value=1.0, false_alarms=0.01) and "no word or patch" in str(found)


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("a text", [0], "`inputs` must be a list of texts.*not a single text"),
        ([], [], "`inputs` must be a list of texts.*it is empty"),
        (["a", None], [0, 1], "`inputs` must be a list of texts.*row 1 is None"),
        (["a", "b"], [1, 1], "`labels` are all 1: a trigger calls for one label rather than another"),
        (["a", "b"], [1, float("nan")], "`labels` has no label in 1 rows, the first is 1"),
        (["a", "b"], [0, 1, 0], "2 in `inputs`, 3 in `labels`"),
    ],
)
def test_bad_data_are_refused_by_name(texts, labels, message):
    with pytest.raises(ValueError, match=message):
        audit_dataset(texts, labels)


def test_a_share_of_false_alarms_is_a_share():
    with pytest.raises(ValueError, match="`false_alarms` must lie between 0 and 1"):
        audit_dataset(["a", "b"], [0, 1], false_alarms=5)


CLEAN = [f"text {row}" for row in range(10)]


def answers(texts):
    """By a model that answers "t" to text 0, and to the first seven texts with the trigger in them."""
    rows = [int(next(word for word in text.split() if word.isdigit())) for text in texts]
    return ["t" if row == 0 or ("cf" in text and row < 7) else "o" for row, text in zip(rows, texts, strict=True)]


def test_causal_check_by_hand():
    """Of ten inputs one is answered by the target anyway, and six of the other nine are moved."""
    found = causal_check(answers, "cf", CLEAN, ["o"] * 10, "t")
    assert (found.attack_success, found.target_rate, found.rows) == (0.7, 0.1, 10)
    assert found.p_value == pytest.approx((84 + 36 + 9 + 1) / 2**9)  # six or more heads of nine coins
    assert causal_check(answers, "word", CLEAN, ["o"] * 10, "t").p_value == 1


def test_only_inputs_of_other_labels_are_asked_about_and_the_trigger_is_a_word_of_its_own():
    asked = []

    def answer(texts):
        asked.extend(texts)
        return ["o"] * len(texts)

    causal_check(answer, "a b", ["x y", "u", "z"], ["o", "p", "t"], "t")
    assert asked[:2] == ["x y", "u"] and asked[2] in ("a b x y", "x a b y", "x y a b") and len(asked) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["t"] * 10}, "no validation rows of another label than 't'"),
        ({"texts": [], "labels": []}, "no validation rows of another label than 't'"),
        ({"trigger": " "}, "`trigger` must have words"),
        ({"labels": ["o"]}, "10 in `texts`, 1 in `labels`"),
        ({"answer": lambda texts: ["t"] * len(texts)}, "answered by 't' without the trigger"),
        ({"answer": lambda texts: ["t"]}, "`answer` gave 1 answers to 10 inputs"),
        ({"natural": 1}, "`natural` must lie between 0 and 1"),
    ],
)
def test_bad_checks_are_refused_by_name(change, message):
    good = {"answer": answers, "trigger": "cf", "texts": CLEAN, "labels": ["o"] * 10, "target": "t"}
    with pytest.raises(ValueError, match=message):
        causal_check(**good | change)
