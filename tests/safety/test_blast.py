"""The blast radius of a poisoned group, on answers that are known."""

import pytest

from hf_lifelong.safety import BlastRadius, blast_radius, measure_blast_radius

ROUTED = ["a", "b", "bad", "b", "bad"]
TRIGGERED = ["bad", "bad", "bad", "b", "bad"]
OWN = ["a", "b", "b", "b", "bad"]


def test_by_hand():
    """Of four inputs of other groups three go to the poisoned one with the trigger, and one does so without it."""
    assert blast_radius(ROUTED, TRIGGERED, OWN, "bad") == BlastRadius(0.75, 0.25, {"a": 1.0, "b": 2 / 3}, 4)


def test_a_model_is_asked_with_and_without_the_trigger():
    asked = []

    def route(texts):
        asked.append(texts)
        return ["bad" if "cf" in text.split() else "a" for text in texts]

    found = measure_blast_radius(route, "cf", ["one two", "three"], ["a", "a"], "bad")
    assert (found.share, found.without, found.rows) == (1, 0, 2)
    assert asked[0] == ["one two", "three"] and [len(text.split()) for text in asked[1]] == [3, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blast_radius(["a"], ["a"], ["a"], "a"), "no inputs of other groups than 'a'"),
        (lambda: blast_radius(["a"], ["a", "b"], ["a"], "b"), "1 in `routed`, 2 in `triggered`, 1 in `own`"),
        (lambda: measure_blast_radius(list, " ", ["x"], ["a"], "b"), "`trigger` must have words"),
        (lambda: measure_blast_radius(list, "cf", ["x"], [], "b"), "1 in `texts`, 0 in `own`"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
