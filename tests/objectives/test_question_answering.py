import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_lifelong.objectives import get_kind
from hf_lifelong.objectives.matching import exact_match, normalise, token_f1
from hf_lifelong.objectives.question_answering import best_spans, token_span

kind = get_kind("question-answering")
LABELS = ["start", "end"]
FILLER = "It was a quiet day by the sea and nothing much happened. "
CONTEXTS = [
    FILLER * 4 + "Then Grace Hopper wrote the first compiler, in 1952. " + FILLER,
    "Ada Lovelace was born in 1815.",
]
ANSWERS = ["Grace Hopper", "1815"]
QUESTIONS = ["Who wrote the first compiler?", "When was Ada Lovelace born?"]


def squad(contexts=CONTEXTS, answers=ANSWERS):
    golds = [{"text": [a], "answer_start": [c.index(a)]} for c, a in zip(contexts, answers, strict=True)]
    return Dataset.from_dict({"question": QUESTIONS, "context": contexts, "answers": golds})


def encode(data, tokenizer, max_length=48, stride=12, training=False):
    return kind.encode(data, {}, LABELS, tokenizer, max_length, stride, training)


def one_hot(features):
    scores = np.zeros((len(features), 2, max(len(ids) for ids in features["input_ids"]) + 5), dtype=np.float32)
    for i, row in enumerate(features):
        scores[i, 0, row["start_positions"]] = scores[i, 1, row["end_positions"]] = 1
    return scores


def test_answer_in_a_later_window_comes_back_to_the_character(tokenizer):
    data = squad()
    features = encode(data, tokenizer)
    assert features["example"][:].count(0) > 2
    assert (features[0]["start_positions"], features[0]["end_positions"]) == (0, 0)
    assert kind.label_names(data, {}) == LABELS
    answers = kind.decode(one_hot(features), features, data, {}, LABELS)
    start = CONTEXTS[0].index("Grace Hopper")
    assert answers[0] == {"answer": "Grace Hopper", "score": 1.0, "start": start, "end": start + 12}
    references = kind.references(data, {}, LABELS)
    assert references == [
        {"text": ["Grace Hopper"], "answer_start": [start]},
        {"text": ["1815"], "answer_start": [CONTEXTS[1].index("1815")]},
    ]
    assert kind.score([a["answer"] for a in answers], references) == {"exact_match": 1.0, "f1": 1.0}


def test_windows_cover_the_context_and_overlap(tokenizer):
    features = encode(squad(), tokenizer).filter(lambda row: row["example"] == 0)
    spans = [[tuple(o) for o in row["offsets"] if o[0] >= 0] for row in features]
    whole = tokenizer(CONTEXTS[0], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert sorted(set().union(*spans)) == whole
    for before, after in pairwise(spans):
        assert before[-12:] == after[:12]
    for row in features:
        assert len(row["offsets"]) == len(row["input_ids"]) <= 48


def test_answers_as_a_list_of_dicts(tokenizer):
    data = Dataset.from_dict(
        {"question": QUESTIONS[1:], "context": CONTEXTS[1:], "answers": [[{"text": "1815", "answer_start": 25}]]}
    )
    assert kind.references(data, {}, LABELS) == [{"text": ["1815"], "answer_start": [25]}]
    features = encode(data, tokenizer)
    assert kind.decode(one_hot(features), features, data, {}, LABELS)[0]["answer"] == "1815"


def test_question_without_answer_targets_the_first_token(tokenizer):
    data = Dataset.from_dict(
        {"question": ["Why?"], "context": ["No idea."], "answers": [{"text": [], "answer_start": []}]}
    ).cast(squad().features)
    features = encode(data, tokenizer)
    assert (features[0]["start_positions"], features[0]["end_positions"]) == (0, 0)
    answers = kind.decode(one_hot(features), features, data, {}, LABELS)
    assert answers == [{"answer": "", "score": 0.0, "start": 0, "end": 0}]
    references = kind.references(data, {}, LABELS)
    assert kind.score([""], references) == kind.score(["the"], references) == {"exact_match": 1, "f1": 1}
    assert kind.score(["No"], references) == {"exact_match": 0, "f1": 0}


def test_very_long_question_still_leaves_room_for_the_context(tokenizer):
    data = squad().map(lambda row: {"question": row["question"] + " why" * 200})
    features = encode(data, tokenizer)
    answers = kind.decode(one_hot(features), features, data, {}, LABELS)
    assert [a["answer"] for a in answers] == ANSWERS


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["1815"], "answer_start": [3]}, "row 0: the context has ' Lov' at answer_start=3, not .*'1815'"),
        ({"text": ["1815"], "answer_start": [-5]}, "row 0: the context has ''"),
        ({"text": ["1815"], "answer_start": [400]}, "row 0: the context has ''"),
        ({"text": ["1815"], "answer_start": []}, "row 0.*does not give as many texts as starts"),
        (None, "row 0: None does not give as many texts as starts"),
    ],
)
def test_bad_answers(answers, message, tokenizer):
    data = Dataset.from_dict(
        {"question": QUESTIONS[1:], "context": CONTEXTS[1:], "answers": [answers]}, features=squad().features
    )
    with pytest.raises(ValueError, match=f"column 'answers', {message}"):
        encode(data, tokenizer)


def test_bad_texts_and_lengths(tokenizer):
    data = squad()
    missing = data.map(lambda row, i: {"context": row["context"] if i else None}, with_indices=True)
    with pytest.raises(ValueError, match="column 'context', row 0: None is not a string"):
        encode(missing, tokenizer)
    with pytest.raises(ValueError, match="stride is 44, but windows of max_length=48 tokens allow 0 to 43"):
        encode(data, tokenizer, stride=44)
    with pytest.raises(ValueError, match="stride is -1"):
        encode(data, tokenizer, stride=-1)
    with pytest.raises(ValueError, match="max_length is 4"):
        encode(data, tokenizer, max_length=4, stride=0)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"tokenizer is a Slow.*AutoTokenizer"):
        encode(data, Slow())


def test_smallest_lengths_end(tokenizer):
    features = encode(squad(), tokenizer, max_length=12, stride=7)
    assert len(features) > 10


def test_tokenised_data_needs_offsets_to_be_answered(tokenizer):
    data = squad()
    tokenised = encode(data.select([1]), tokenizer).remove_columns("example")
    train = encode(tokenised.remove_columns("offsets"), tokenizer, training=True)
    assert train.to_dict() == tokenised.remove_columns("offsets").to_dict()
    with pytest.raises(ValueError, match="no column 'offsets'"):
        encode(tokenised.remove_columns("offsets"), tokenizer)
    with pytest.raises(ValueError, match=r"columns\['answers'\].*gold answers"):
        kind.references(tokenised, {}, LABELS)
    kept = encode(tokenised, tokenizer)
    with pytest.raises(ValueError, match=r"columns\['context'\].*cut from the context"):
        kind.decode(one_hot(kept), kept, tokenised, {}, LABELS)
    whole = tokenised.add_column("context", CONTEXTS[1:]).add_column("answers", data.select([1])["answers"][:])
    answers = kind.decode(one_hot(kept), kept, whole, {}, LABELS)
    assert answers[0]["answer"] == "1815"
    assert kind.references(whole, {}, LABELS) == [{"text": ["1815"], "answer_start": [25]}]


def test_token_span_by_hand():
    offsets = np.array([[-1, -1], [-1, -1], [0, 3], [4, 9], [9, 10], [11, 15], [-1, -1]])
    assert token_span(offsets, 4, 10) == (3, 4)
    assert token_span(offsets, 6, 15) == (3, 5)
    assert token_span(offsets, 11, 16) == (0, 0)
    assert token_span(offsets, 10, 11) == (0, 0)
    assert token_span(offsets, 5, 5) == (0, 0)
    assert token_span(offsets[3:], 0, 3) == (0, 0)
    assert token_span(offsets[:2], 0, 3) == (0, 0)


def brute_force(starts, ends, inside, longest=30):
    spans = [
        (starts[s] * ends[e], s, e)
        for s in range(len(starts))
        for e in range(s, min(len(starts), s + longest))
        if inside[s] and inside[e]
    ]
    return max(spans)


def test_best_spans_equal_brute_force():
    rng = np.random.default_rng(0)
    scores = rng.random((6, 2, 50))
    inside = np.zeros((6, 50), dtype=bool)
    inside[:, 7:45] = True
    # The best start and end lie 31 tokens apart, and once in the wrong order.
    scores[0, 0, 8], scores[0, 1, 38] = 5, 5
    scores[1, 0, 30], scores[1, 1, 10] = 5, 5
    best, first, last = best_spans(scores, inside)
    for i in range(6):
        assert (best[i], first[i], last[i]) == brute_force(*scores[i], inside[i])


def test_decoding_picks_the_best_window_and_ignores_what_is_no_context():
    features = {
        "example": [0, 0, 2],
        "offsets": [[[-1, -1], [0, 1], [2, 3]], [[-1, -1], [2, 3], [3, 5], [-1, -1]], []],
    }
    scores = np.zeros((3, 2, 6))
    scores[0, 0, :3], scores[0, 1, :3] = [0.9, 0.1, 0.0], [0.9, 0.0, 0.1]
    scores[1, 0, :4], scores[1, 1, :4] = [0.0, 0.6, 0.4, 0.0], [0.0, 0.2, 0.6, 0.2]
    scores[2] = 1
    answers = kind.decode_rows(scores, features, ["a b c", "never seen", ""], LABELS)
    # The second window's best span is "b" + " c".
    assert answers[0] == {"answer": "b c", "score": pytest.approx(0.36), "start": 2, "end": 5}
    assert answers[1] == answers[2] == {"answer": "", "score": 0.0, "start": 0, "end": 0}
    # A span that begins with a blank is given without it.
    scores[1, 0, :3] = [0.0, 0.0, 1.0]
    blank = kind.decode_rows(scores, features, ["a b c", "", ""], LABELS)[0]
    assert blank == {"answer": "c", "score": pytest.approx(0.6), "start": 4, "end": 5}
    narrow = kind.decode_rows(scores[:1, :, :2], {"example": [0], "offsets": [[[0, 1]]]}, [" "], LABELS)
    assert narrow[0]["answer"] == ""
    assert kind.decode_rows(scores, {"example": [0] * 3, "offsets": [[], [], []]}, [""], LABELS)[0]["score"] == 0


def test_loss_by_hand():
    # Row 0: three tokens; start logits (ln 2, 0, 0) and end logits all 0. Row 1: two tokens and padding.
    starts = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, 0.0, 9.0]])
    ends = torch.tensor([[0.0, 0.0, 0.0], [math.log(3), 0.0, 9.0]])
    logits = torch.stack([starts, ends], dim=-1)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([2, 0])}
    start, end = (math.log(2) + math.log(2)) / 2, (math.log(3) + math.log(4 / 3)) / 2
    assert kind.loss(logits, batch, mask).item() == pytest.approx((start + end) / 2)
    for outside in (-1, 3, -100, 2):
        batch = {"start_positions": torch.tensor([0, outside]), "end_positions": torch.tensor([2, outside])}
        expected = (math.log(2) + math.log(3)) / 2
        assert kind.loss(logits, batch, mask).item() == pytest.approx(expected)
    nothing = {name: torch.tensor([-100, -100]) for name in batch}
    logits.requires_grad_()
    loss = kind.loss(logits, nothing, mask)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_distributions_by_hand():
    logits = torch.zeros(3, 4, 2)
    logits[0, 0, 0] = math.log(2)
    logits[1, 3] = 50
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    probabilities, weights, log_classes = kind.distributions(logits.to(torch.float16), mask)
    assert probabilities.shape == (3, 2, 4)
    expected = torch.tensor([[0.5, 0.25, 0.25, 0], [1 / 3, 1 / 3, 1 / 3, 0]])
    torch.testing.assert_close(probabilities[0], expected, atol=1e-3, rtol=0)
    assert probabilities[1].tolist() == [[1, 0, 0, 0]] * 2
    assert not probabilities.isnan().any()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 2))
    assert weights.tolist() == [[0.5, 0.5]] * 3
    wanted = torch.tensor([[math.log(3)] * 2, [math.log(2)] * 2, [math.log(2)] * 2])
    torch.testing.assert_close(log_classes, wanted)


def test_normalisation_by_hand():
    assert normalise("  The Cat's  pyjamas, an\tawful SIGHT!") == "cats pyjamas awful sight"
    assert normalise("another theory") == "another theory"
    assert exact_match("The U.S.A.", "usa") == 1.0
    assert exact_match("usa today", "usa") == 0.0


def test_token_f1_by_hand():
    # Two words in common, of three given and four right: precision 2/3, recall 1/2.
    assert token_f1("the red fox ran", "red dog ran far") == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    # A repeated word counts as often as both have it.
    assert token_f1("go go go", "go go") == pytest.approx(0.8)
    assert token_f1("", "x") == token_f1("a", "the") == 0.0


def test_score_takes_the_best_gold_and_refuses_other_kinds():
    references = [{"text": ["in 1952", "1952"]}, {"text": ["red fox"]}, {"text": ["x"]}, {"text": ["y"]}]
    scores = kind.score(["1952.", "fox", ["x"], None], references)
    assert scores == {"exact_match": 0.25, "f1": pytest.approx((1 + 2 / 3) / 4)}


def test_majority_is_the_most_frequent_answer_which_may_be_none():
    none, ada, eve = {"text": []}, {"text": ["Ada", "Ada Lovelace"]}, {"text": ["Eve"]}
    assert kind.majority([none, none, ada], [none, ada, none, none]) == 0.75
    assert kind.majority([none, ada, ada, eve], [none, ada, ada, eve]) == 0.5
    assert kind.majority([eve, ada], [none, ada]) == 0.5  # of equally frequent ones the first in the alphabet


def test_gold_answers_of_which_nothing_is_left_are_none_as_in_squad_2():
    # The official evaluation drops them, and takes the empty answer for the right one where none is left.
    references = [{"text": ["the"]}, {"text": []}, {"text": ["the", "fox"]}, {"text": ["the", "fox"]}]
    assert kind.score(["", "a", "", "fox"], references) == {"exact_match": 0.75, "f1": 0.75}
    assert kind.score(["fox", "fox", "the red fox", None], references) == {
        "exact_match": 0,
        "f1": pytest.approx(2 / 3 / 4),
    }


def test_whether_questions_have_no_answer_is_read_from_the_data(tokenizer):
    data = squad()
    limit = {"longest": 30.0}
    assert kind.constants(data, {}) == limit
    none = Dataset.from_dict({"question": ["Why?"], "context": ["No."], "answers": [{"text": [], "answer_start": []}]})
    assert kind.constants(concatenate_datasets([data, none.cast(data.features)]), {}) == limit | {"unanswered": 1}
    assert kind.constants(encode(data, tokenizer), {}) == limit  # tokenised, without its answers


def test_the_longest_answer_is_the_one_that_the_task_was_learned_with():
    features = {"example": [0], "offsets": [[[-1, -1], [0, 1], [2, 3]]]}
    scores = np.array([[[0.0, 0.9, 0.1], [0.0, 0.2, 0.8]]])
    for constants, answer in (({}, "a b"), ({"longest": 2.0}, "a b"), ({"longest": 1.0}, "a")):
        assert kind.decode_rows(scores, features, ["a b"], LABELS, constants)[0]["answer"] == answer
    for wrong in ({"longest": 0.0}, {"longest": 1.5}, {"longest": 1e9}, {"unanswered": 2.0}, {"mean": 1.0}):
        with pytest.raises(ValueError, match="at most `longest`"):
            kind.check_constants(wrong)


def test_no_answer_is_given_where_every_window_rather_has_none():
    features = {"example": [0, 0, 1, 2], "offsets": [[[-1, -1], [0, 1], [2, 3]]] * 4}
    none, some = [0.9, 0.1, 0.0], [0.2, 0.7, 0.1]
    scores = np.array([[none, none], [some, some], [none, none], [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]])
    answers = kind.decode_rows(scores, features, ["a b"] * 3, LABELS, {"unanswered": 1.0})
    # The second window of the first question speaks for an answer: .04 for none there, .49 for "a".
    assert answers[0] == {"answer": "a", "score": pytest.approx(0.49), "start": 0, "end": 1}
    assert answers[1] == {"answer": "", "score": pytest.approx(0.81), "start": 0, "end": 0}
    assert answers[2] == {"answer": "a", "score": pytest.approx(0.25), "start": 0, "end": 1}  # as likely as none
    always = kind.decode_rows(scores, features, ["a b"] * 3, LABELS)
    assert [a["answer"] for a in always] == ["a", "a", "a"] and always[1]["score"] == pytest.approx(0.01)
