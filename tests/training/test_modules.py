"""Metrics of the `evaluate` library as a task's own: what they are given, and what of them is kept."""

import evaluate
import pytest
from datasets import Dataset
from training_helpers import answers, sentiment

from hf_lifelong import Task
from hf_lifelong.objectives import get_kind
from hf_lifelong.training import modules

SQUAD = {
    "predictions": "{'id': Value('string'), 'prediction_text': Value('string')}",
    "references": "{'id': Value('string'), 'answers': {'text': Sequence(Value('string')), "
    "'answer_start': Sequence(Value('int32'))}}",
}


@pytest.fixture
def kappa(module):
    body = "return {'kappa': metrics.cohen_kappa_score(references, predictions), 'rows': len(predictions), 'x': 'y'}"
    return module("kappa", "Value('int32')", "Value('int32')", body)


@pytest.fixture
def squad(module):
    body = """
                    golds = [row['answers'] for row in references]
                    same = [p['prediction_text'] in g['text'] for p, g in zip(predictions, golds)]
                    ids = [p['id'] for p in predictions] == [r['id'] for r in references]
                    starts = sum(g['answer_start'][0] for g in golds)
                    return {'exact_match': 100.0 * sum(same) / len(same), 'ids': int(ids), 'starts': starts}"""
    return module("squad_like", SQUAD["predictions"], SQUAD["references"], body.strip())


def given(module, kind, answers, references, labels=()):
    """The predictions and references that a module gets."""
    options = module.features if isinstance(module.features, list) else [module.features]
    return get_kind(kind).module_forms(options, answers, references, labels)


def test_label_ids_where_the_module_takes_numbers_else_names(module, kappa):
    labels = ("negative", "neutral", "positive")
    answered, right = ["positive", "negative", None, "other"], ["positive", "neutral", "positive", "neutral"]
    assert given(kappa, "text-classification", answered, right, labels) == ([2, 0, 0, 2], [2, 1, 2, 1])
    names = module("names", "Value('string')", "Value('string')", "return {}")
    found = given(names, "text-classification", answered, right, labels)
    assert found == (["positive", "negative", "negative", "positive"], right)


def test_tags_are_given_word_by_word(module):
    tags = module("tags", "Sequence(Value('string'))", "Sequence(Value('string'))", "return {}")
    labels = ("B-PER", "I-PER", "O")
    answered = [["O", "B-PER"], None, ["O"], ["x", "O"]]
    right = [["O", "O"], ["B-PER", "O"], ["O", "O"], ["O", "O"]]
    expected = [["O", "B-PER"], ["I-PER", "B-PER"], ["B-PER", "B-PER"], ["B-PER", "O"]]
    assert given(tags, "token-classification", answered, right, labels) == (expected, right)
    ids = module("ids", "Sequence(Value('int32'))", "Sequence(Value('int32'))", "return {}")
    assert given(ids, "token-classification", answered[:1], right[:1], labels) == ([[2, 0]], [[2, 2]])


def test_texts_and_all_their_references_where_the_module_takes_lists(module):
    one = module("one", "Value('string')", "Value('string')", "return {}")
    several = module("several", "Value('string')", "Sequence(Value('string'))", "return {}")
    references = [{"text": ["a", "b"]}, {"text": []}]
    assert given(one, "text-generation", ["b", None], references) == (["b", ""], ["a", ""])
    assert given(several, "text-generation", ["b", None], references) == (["b", ""], [["a", "b"], [""]])


def test_questions_without_answer_are_known_to_modules_that_ask(module):
    predictions = SQUAD["predictions"].replace("}", ", 'no_answer_probability': Value('float32')}")
    second = module("second", predictions, SQUAD["references"], "return {}")
    found, right = given(second, "question-answering", ["", 3], [{"text": [], "answer_start": []}] * 2)
    assert found[1] == {"id": "1", "prediction_text": "", "no_answer_probability": 0.0}
    assert right[0] == {"id": "0", "answers": {"text": [], "answer_start": []}}


def test_its_numbers_stand_beside_the_kinds_own_when_the_stream_is_scored(train, kappa, squad):
    trainer = train([sentiment(compute_metrics=kappa), answers(compute_metrics=squad)])
    logged = [entry for entry in trainer.state.log_history if "eval_average_accuracy" in entry][-1]
    found = trainer.evaluate()
    assert {key: logged[key] for key in found} == found
    assert -1 <= found["eval_sentiment_kappa"] <= 1 and found["eval_sentiment_rows"] == 12
    assert "eval_sentiment_x" not in found
    assert found["eval_answers_ids"] == 1 and found["eval_answers_starts"] > 0
    # The same name, in other units: both are kept.
    assert found["eval_answers_squad_like_exact_match"] == pytest.approx(100 * found["eval_answers_exact_match"])
    assert trainer.matrix.metrics == ["accuracy", "f1"]
    assert trainer.matrix.scores[1] == [found["eval_sentiment_accuracy"], found["eval_answers_f1"]]


def test_it_is_computed_while_its_task_is_trained(train, kappa):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    best = {"metric_for_best_model": "kappa", "greater_is_better": True, "load_best_model_at_end": True}
    trainer = train([sentiment(compute_metrics=kappa), answers()], **options)
    trained = train([sentiment(compute_metrics=kappa)], folder="best", **options, **best)
    during = [entry for entry in trained.state.log_history if "eval_kappa" in entry]
    assert [entry["step"] for entry in during] == [2, 4]
    assert all({"eval_accuracy", "eval_rows", "eval_loss"} <= set(entry) for entry in during)
    assert trained.state.best_metric == max(entry["eval_kappa"] for entry in during)
    assert not any("eval_kappa" in entry for entry in trainer.state.log_history)


def test_several_modules_combined_are_one(train, kappa, module):
    body = "return {'rows': 1.0, 'recall': metrics.recall_score(references, predictions)}"
    recall = module("recall", "Value('int32')", "Value('int32')", body)
    both = evaluate.combine([kappa, recall])
    found = train([sentiment(compute_metrics=both)]).evaluate()
    assert {"eval_sentiment_kappa", "eval_sentiment_recall"} <= set(found)
    assert (found["eval_sentiment_kappa_rows"], found["eval_sentiment_recall_rows"]) == (12, 1)


def test_a_module_that_fails_is_refused_before_training_and_the_task_named(prepare, kappa, module):
    three = Dataset.from_dict({"text": ["a", "b", "c"] * 6, "label": ["x", "y", "z"] * 6})
    binary = module(
        "binary", "Value('int32')", "Value('int32')", "return {'f1': metrics.f1_score(references, predictions)}"
    )
    for kind, data, metric, message in (
        ("text-classification", three, binary, "multiclass"),
        ("question-answering", answers().train, kappa, "expected format"),
    ):
        trainer = prepare([Task("films", kind, data, test=data, compute_metrics=metric)])
        with pytest.raises(ValueError, match=rf"`compute_metrics` of task `films` failed on the answers.*{message}"):
            trainer.train()
        assert trainer.knowledge.names == []


def test_a_module_that_gives_no_dict_names_the_task(module):
    wrong = module("wrong", "Value('int32')", "Value('int32')", "return 0.5")
    with pytest.raises(ValueError, match=r"`compute_metrics` of task `mine` returned 0.5 instead of a dict"):
        modules.with_module({}, sentiment("mine", compute_metrics=wrong), ("a", "b"), ["a"], ["b"])


def test_what_is_neither_function_nor_module_is_refused():
    with pytest.raises(ValueError, match=r"`compute_metrics` of task `sentiment` is 'accuracy'; give a function"):
        sentiment(compute_metrics="accuracy")


def test_functions_are_given_what_trainer_gives(train):
    seen = []

    def count(prediction):
        seen.append(prediction.predictions.shape)
        return {"count": len(prediction.predictions)}

    trainer = train([sentiment(compute_metrics=count)], eval_strategy="steps", eval_steps=4)
    assert seen == [(len(trainer.eval_dataset), 2)]
    assert not any("count" in key for key in trainer.evaluate())
