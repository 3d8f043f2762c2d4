"""Tasks that add labels to an earlier one (`extends`)."""

from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import PeftModel
from training_helpers import rows, saved, sentiment
from transformers import AutoModel
from typer.testing import CliRunner

from hf_lifelong import Task, export, forget, predict, union
from hf_lifelong.adapter import knowledge_of
from hf_lifelong.cli.app import app
from hf_lifelong.knowledge import KnowledgeBase
from hf_lifelong.knowledge.manifest import ManifestError
from hf_lifelong.pipeline import LifelongPipeline

TENSORS = "adapter_model.safetensors"


def texts(label: str, start: int, stop: int) -> list[str]:
    if label == "review":
        return list(rows("sentiment_sentences", start, stop)["text"])
    column = {"question": "question", "passage": "context"}[label]
    return [text[:150] for text in rows("squad", start, stop)[column]]


def forms(name: str, labels: tuple[str, ...], start: int = 0, stop: int = 30, **options) -> Task:
    """What a text is."""

    def data(start: int, stop: int) -> Dataset:
        found = [(text, label) for label in labels for text in texts(label, start, stop)]
        return Dataset.from_dict({"text": [text for text, _ in found], "label": [label for _, label in found]})

    return Task(name, "text-classification", data(start, stop), test=data(100, 110), **options)


def root(**options) -> Task:
    return forms("forms", ("question", "review"), **options)


def more(name: str = "more forms", labels: tuple[str, ...] = ("passage",), **options) -> Task:
    return forms(name, labels, extends="forms", **options)


def asked(trainer, wanted: list[str], tokenizer, **options) -> list[dict]:
    return LifelongPipeline(model=trainer.model, tokenizer=tokenizer)(wanted, **options)


def test_a_task_answers_with_a_new_label_and_its_old_ones_as_before(train, tokenizer):
    old, new = texts("question", 100, 110) + texts("review", 100, 110), texts("passage", 100, 110)
    alone = {"batch_size": 1}  # among other rows, sums are rounded in another order
    before = asked(train([root()], start_from="fresh", max_steps=12), old, tokenizer, **alone)
    trainer = train([root(), more()], start_from="fresh", max_steps=12)
    knowledge = trainer.knowledge
    assert knowledge.tasks[1].labels == ("passage",) and knowledge.groups == ["forms", "more forms"]
    after, of_new = asked(trainer, old, tokenizer, **alone), asked(trainer, new, tokenizer)
    assert {answer["task"] for answer in after + of_new} == {"forms"}
    assert [answer["answer"] for answer in of_new].count("passage") >= 9
    kept = [(a, b) for a, b in zip(before, after, strict=True) if b["answer"] != "passage"]
    assert len(kept) >= 18
    for key in ("answer", "score", "uncertainty"):
        assert [a[key] for a, _ in kept] == [b[key] for _, b in kept]  # to the bit


def test_a_caller_who_names_the_task_gets_new_labels_too(train, tokenizer, tmp_path):
    trainer = train([root(), sentiment(), more()], max_steps=12)
    # Of the three groups, an export has the labels of one, and says which of its task are missing.
    for group, missing in (
        ("forms", "passage (group `more forms`)"),
        ("more forms", "question, review (group `forms`)"),
    ):
        note = export(trainer.model, group, tmp_path / group).note
        assert note.endswith(f"are not in it, so it answers such inputs wrongly: {missing}.")
        assert note in (tmp_path / group / "README.md").read_text()
    assert "other groups" not in export(trainer.model, sentiment().name, tmp_path / "sentiment").note
    new = texts("passage", 100, 110)
    told = asked(trainer, new, tokenizer, policy="oracle", group="forms")
    assert [answer["answer"] for answer in told].count("passage") >= 9
    assert {answer["task"] for answer in told} == {"forms"}
    alone = asked(trainer, new, tokenizer, policy="oracle", group=0)
    assert {answer["answer"] for answer in alone} <= {"question", "review"}
    batch = tokenizer(new, padding=True, truncation=True, max_length=48, return_tensors="pt")
    groups = predict(trainer.model, batch, policy="oracle", group="forms").group
    assert set(groups.tolist()) <= {0, 2}
    assert set(predict(trainer.model, batch, policy="oracle", group="more forms").group.tolist()) == {2}


def test_forgetting_new_labels_leaves_the_task_and_the_other_way_round(train, tmp_path):
    first = train([root()], start_from="fresh")
    before = saved(first, tmp_path / "before")[TENSORS]
    both = train([root(), more()], start_from="fresh", folder="both")
    forget(both.model, "more forms")
    assert saved(both, tmp_path / "root")[TENSORS] == before and both.knowledge.tasks == first.knowledge.tasks
    both = train([root(), more()], start_from="fresh", folder="again")
    forget(both.model, "forms")
    plain = forms("more forms", ("passage",), extends=None)
    with pytest.raises(ValueError, match=r"Task `more forms`: `train`, column 'label'.*at least 2"):
        train([plain], folder="plain")
    left = both.knowledge.tasks[0]
    assert left.extends is None and both.knowledge.answers_as(left) == "more forms"


def test_labels_that_are_left_alone_have_the_bytes_of_a_task_that_extended_nothing(train, tmp_path):
    labels = ("passage", "review")
    both = train([sentiment("forms", 60, 90), more(labels=labels)], start_from="fresh", folder="both")
    forget(both.model, "forms")
    alone = train([forms("more forms", labels, extends=None)], start_from="fresh", folder="alone")
    assert saved(both, tmp_path / "both")[TENSORS] == saved(alone, tmp_path / "alone")[TENSORS]
    assert both.knowledge.tasks == alone.knowledge.tasks


def test_names_are_in_the_file_and_change_in_a_union(train, bert_folder, tmp_path):
    trainer = train([root(), more()], folder="first")
    trainer.model.save_pretrained(str(tmp_path / "saved"))
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "saved"))
    assert knowledge_of(loaded).tasks[1].extends == "forms"
    other = train([sentiment("forms")], folder="second")
    assert "extends" not in other.knowledge.to_dict()["tasks"][0]
    united = union(other.model, loaded, rename={"forms": "kinds of text"})
    assert knowledge_of(united).tasks[2].extends == "kinds of text"
    assert knowledge_of(united).answers_as(knowledge_of(united).tasks[2]) == "kinds of text"


def test_card_and_report_say_to_which_task_labels_were_added(train, tmp_path):
    trainer = train([root(), more()], max_steps=2)
    card = Path(trainer.output_dir, "README.md").read_text()
    assert "| added to |" in card and "| passage | **forms** |".replace("**", "") in card
    result = CliRunner().invoke(app, ["inspect", trainer.output_dir])
    assert "passage (added to forms)" in result.output


def test_new_labels_that_come_again_join_their_group(train):
    labels = ("passage", "review")
    tasks = [sentiment("forms"), more(labels=labels), more("again", labels, start=30, stop=60)]
    trainer = train(tasks, grouping_tolerance=0.5)
    assert trainer.knowledge.groups == ["forms", "more forms"]
    assert [trainer.knowledge.answers_as(task) for task in trainer.knowledge.tasks] == ["forms"] * 3
    assert trainer.knowledge.groups_of("forms") == [0, 1] and trainer.knowledge.groups_of("again") == [1]


def test_only_declared_labels_that_occur_are_new(prepare):
    task = more(labels=("passage", "review"))
    names = ClassLabel(names=["question", "review", "passage"])
    task.train, task.test = task.train.cast_column("label", names), task.test.cast_column("label", names)
    assert prepare([root(), task]).prepared(task).labels == ("review", "passage")


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        (lambda: [more()], r"`extends` of task `more forms` is 'forms', which is no task before it; there are \[\]"),
        (lambda: [more(), root()], "no task before it"),
        (lambda: [root(), more(labels=("review",))], r"has the labels \['review'\] already. Leave `extends` out"),
        (
            lambda: [root(), more(), forms("third", ("passage", "review"), extends="more forms")],
            "adds labels to `forms` itself. Give `extends='forms'`",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused_before_training(prepare, tasks, problem):
    trainer = prepare(tasks())
    with pytest.raises(ValueError, match=problem):
        trainer.train()
    assert not trainer.knowledge.tasks


def test_bad_arguments_are_refused():
    data = rows("squad", 0, 4)
    with pytest.raises(ValueError, match="labels are added to tasks whose inputs have one label"):
        Task("q", "question-answering", data, extends="other")
    with pytest.raises(ValueError, match="`extends` of task `t` is 3; give the name of a task"):
        Task("t", "text-classification", data, extends=3)


def test_a_task_of_its_own_needs_two_labels(prepare):
    tagged = Dataset.from_dict({"tokens": [["a", "b"]] * 4, "tags": [["X", "X"]] * 4})
    trainer = prepare([Task("tags", "token-classification", tagged)])
    with pytest.raises(ValueError, match=r"Task `tags`: `train`, column 'tags': it has 1 label name.*at least 2"):
        trainer.train()


@pytest.mark.parametrize("extends", ["nothing", "more forms", 3])
def test_a_manifest_that_extends_no_earlier_task_is_refused(train, extends):
    manifest = train([root(), more()], max_steps=2).knowledge.to_dict()
    manifest["tasks"][1]["extends"] = extends
    with pytest.raises(ManifestError, match="extends"):
        KnowledgeBase.from_dict(manifest)
