"""Boundaries in streams whose truth is known."""

import pytest
import torch

from hf_lifelong.knowledge import Signature, fit_signature
from hf_lifelong.streams import BoundaryDetector, Reference, references

WIDTH, RANK = 48, 16


def rows(count, seed, shift=0.0):
    """Normal inputs with unequal variances; `shift` moves them along a direction of its own for each sign."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.ones(WIDTH) if shift >= 0 else torch.ones(WIDTH) * (-1.0) ** torch.arange(WIDTH)
    return torch.randn(count, WIDTH, generator=generator) * torch.linspace(0.5, 2, WIDTH) + abs(shift) * direction


def reference(inputs, labels=None):
    classes = 1 if labels is None else int(labels.max()) + 1
    return Reference(fit_signature(inputs, RANK, labels, classes), len(inputs))


@pytest.fixture(scope="module")
def known():
    return {"a": reference(rows(400, 1)), "b": reference(rows(400, 2, 0.7)), "c": reference(rows(400, 3, -0.7))}


def watch(detector, inputs):
    """The first verdict that tells a boundary, and the position of its input."""
    for i, features in enumerate(inputs):
        verdict = detector.update(features)
        if verdict.outcome != "same":
            return verdict, i
    return None, None


def test_a_new_task_is_found_soon_and_where_it_began():
    verdict, at = watch(BoundaryDetector(), torch.cat([rows(300, 4), rows(100, 5, 0.7)]))
    assert (verdict.outcome, verdict.group) == ("new", None) and verdict.evidence >= 1
    assert at < 332 and abs(verdict.since - 300) <= 12


def test_the_return_of_a_known_task_is_recognised(known):
    detector = BoundaryDetector(known, "a")
    verdict, at = watch(detector, torch.cat([rows(200, 4), rows(100, 5, -0.7)]))
    assert (verdict.outcome, verdict.group) == ("return", "c") and at < 232 and abs(verdict.since - 200) <= 12
    detector.begin("c")
    assert detector.current == "c" and detector.update(rows(1, 6, -0.7)[0]).group == "c"
    # Positions count from the first input of all.
    passed = detector.seen
    verdict, at = watch(detector, torch.cat([rows(200, 7, -0.7), rows(100, 8)]))
    assert (verdict.outcome, verdict.group) == ("return", "a") and abs(verdict.since - (passed + 200)) <= 12


def test_a_task_that_is_like_no_known_one_is_new(known):
    two = {name: known[name] for name in "ab"}
    verdict, _ = watch(BoundaryDetector(two, "a"), torch.cat([rows(200, 4), rows(100, 5, -0.7)]))
    assert (verdict.outcome, verdict.group) == ("new", None)


def test_a_task_that_was_learned_is_known_after_the_next_boundary(known):
    detector = BoundaryDetector(expected_run=2000)
    assert watch(detector, torch.cat([rows(200, 4), rows(60, 5, 0.7)]))[0].outcome == "new"
    detector.learn("a", known["a"])
    detector.begin(None)
    assert watch(detector, torch.cat([rows(150, 6, 0.7), rows(60, 7)]))[0].group == "a"


def test_a_stream_that_begins_with_a_known_task_says_which(known):
    verdict, at = watch(BoundaryDetector(known), rows(100, 9, 0.7))
    assert (verdict.outcome, verdict.group, verdict.since, at) == ("return", "b", 0, 63)


def test_what_was_wrongly_told_to_be_new_is_corrected_after_its_first_window(known):
    detector = BoundaryDetector({"a": known["a"], "c": known["c"]}, "a")
    verdict, _ = watch(detector, torch.cat([rows(100, 4), rows(100, 5, 0.7)]))
    detector.begin(None)
    assert verdict.outcome == "new" and watch(detector, rows(63, 6)) == (None, None)
    corrected, _ = watch(detector, rows(1, 7))
    assert (corrected.outcome, corrected.group, corrected.since) == ("return", "a", verdict.since)


def test_a_blurred_boundary_is_found():
    mixed = torch.where(
        torch.rand(150, 1, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 150)[:, None],
        rows(150, 5, 0.7),
        rows(150, 6),
    )
    verdict, at = watch(BoundaryDetector(), torch.cat([rows(300, 4), mixed]))
    assert verdict.outcome == "new" and 300 < at < 440


def test_classes_of_the_task_raise_no_alarm():
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(6, WIDTH, generator=generator) * 2
    labels = torch.randint(6, (1600,), generator=generator)
    inputs = rows(1600, 1) + places[labels]
    known = {"a": reference(inputs[:400], labels[:400])}
    assert watch(BoundaryDetector(known, "a", expected_run=20_000), inputs[400:]) == (None, None)
    assert watch(BoundaryDetector(expected_run=20_000), inputs[400:]) == (None, None)


def test_odd_inputs_apart_from_each_other_do_not_decide(known):
    inputs = rows(600, 4)
    inputs[100::100] = 1e4 * rows(5, 5)
    inputs[550] = known["b"].signature.mean * 1e3
    assert watch(BoundaryDetector(known, "a"), inputs) == (None, None)
    assert watch(BoundaryDetector(), inputs) == (None, None)


def test_false_alarms_are_about_as_rare_as_expected():
    """Inputs whose variances the reference has to estimate, streams of 40 · 600 inputs in all."""
    alarms = sum(watch(BoundaryDetector(expected_run=500), rows(600, seed))[0] is not None for seed in range(40))
    assert 40 * (1 - 2.718 ** (-600 / 1500)) / 2 < alarms < 40 * (1 - 2.718 ** (-600 / 167)) + 1


def test_calibrating_for_longer_runs_lowers_the_evidence():
    one, two = BoundaryDetector(), BoundaryDetector()
    for x in rows(200, 4):
        one.update(x), two.update(x)
    two.calibrate(20_000)
    last = rows(1, 5, 0.7)[0]
    assert 0 < two.update(last).evidence < one.update(last).evidence


@pytest.mark.parametrize("before", [30, 250])
def test_a_reloaded_detector_goes_on_to_the_bit(known, before):
    inputs = torch.cat([rows(270, 4), rows(60, 5, 0.7)])
    one, two = BoundaryDetector(known), BoundaryDetector(known)
    for x in inputs[:before]:
        one.update(x)
    state = one.state_dict()
    kept = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    two.load_state_dict(state)
    after = [(one.update(x), two.update(x)) for x in inputs[before:]]
    assert all(a == b for a, b in after) and any(a.outcome == "return" for a, _ in after)
    # The state is a copy.
    assert all(torch.equal(value, kept[name]) for name, value in state.items() if isinstance(value, torch.Tensor))


def test_the_same_stream_gives_the_same_verdicts(known):
    inputs = torch.cat([rows(100, 4), rows(30, 5, 0.7)])
    one, two = BoundaryDetector(known, "a"), BoundaryDetector(known, "a")
    assert [one.update(x) for x in inputs] == [two.update(x) for x in inputs]


def test_references_are_split_from_stacked_signatures(known):
    parts = [known[name].signature for name in "ab"]
    stacked = Signature(
        *(torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "factor", "diagonal")),
        torch.cat([part.classes for part in parts]),
    )
    split = references(stacked, ["a", "b"], [400, 400], [1, 1])
    assert list(split) == ["a", "b"] and torch.equal(split["b"].signature.classes, known["b"].signature.classes)
    with pytest.raises(ValueError, match="`names`, `inputs` and `classes`"):
        references(stacked, ["a"], [400, 400], [1, 1])
    with pytest.raises(ValueError, match="split the signatures"):
        Reference(stacked, 400)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([0.0] * WIDTH, TypeError, "`features` must be a floating-point tensor, not list"),
        (torch.zeros(WIDTH, dtype=torch.long), TypeError, "not a tensor of torch.int64"),
        (torch.zeros(2, WIDTH), ValueError, "of one input"),
        (torch.zeros(0), ValueError, "of one input"),
        (torch.zeros(WIDTH + 1), ValueError, "`features` has 49 values"),
        (torch.full((WIDTH,), torch.nan), ValueError, "NaN or infinite"),
        (torch.full((WIDTH,), 1e20), ValueError, "too large"),
    ],
)
@pytest.mark.parametrize("before", [10, 100])
def test_broken_inputs_are_refused_and_change_nothing(features, error, message, before):
    one, two = BoundaryDetector(), BoundaryDetector()
    for x in rows(before, 4):
        one.update(x), two.update(x)
    with pytest.raises(error, match=message):
        one.update(features)
    assert one.seen == before
    assert [one.update(x) for x in rows(80, 5)] == [two.update(x) for x in rows(80, 5)]


def test_wrong_names_and_references_are_refused(known):
    with pytest.raises(
        ValueError, match=r"`name` must be a known task or `None`, not 'd'; known are \['a', 'b', 'c'\]"
    ):
        BoundaryDetector(known, "d")
    detector = BoundaryDetector(known, "a")
    with pytest.raises(ValueError, match="`name` must be a known task"):
        detector.begin("d")
    with pytest.raises(ValueError, match="'d' is of 5 features"):
        detector.learn("d", reference(torch.randn(20, 5)))
    with pytest.raises(TypeError, match="must be a `Reference`"):
        detector.learn("d", known["a"].signature)
    with pytest.raises(ValueError, match="`expected_run` must be an integer of at least 100"):
        BoundaryDetector(expected_run=10)
    with pytest.raises(ValueError, match="at least 2"):
        Reference(known["a"].signature, 1)
    with pytest.raises(ValueError, match="make it with the same `known`"):
        BoundaryDetector().load_state_dict(detector.state_dict())
    assert detector.current == "a" and detector.seen == 0
