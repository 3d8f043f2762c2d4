"""Another modality is one class: rows of a table, in which a trigger is a number that nobody has."""

import numpy as np

from hf_lifelong.safety import AuditedInputs, audit_answers, audit_dataset
from hf_lifelong.safety.association import association_test
from hf_lifelong.safety.words import presence


class Numbers(AuditedInputs):
    roles, mark = ("numbers",), "number:"

    def __init__(self, rows):
        self.rows = rows

    @classmethod
    def of_columns(cls, columns):
        return cls(columns["numbers"])

    def as_columns(self, inputs):
        return {"numbers": list(inputs)}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]

    def tested(self, classes):
        self.matrix, self.numbers = presence(self.rows)
        return association_test(self.matrix, self.matrix, np.ones(len(self.numbers), np.int64), classes)

    def holding(self, column):
        return np.flatnonzero([self.numbers[column] in row for row in self.rows])

    def trigger(self, column, rows):
        return self.numbers[column]

    def inserted(self, given, trigger, place):
        return [*given, trigger]

    def without(self, row, trigger):
        return [number for number in self.rows[row] if number != trigger]

    @classmethod
    def read(cls, text):
        return int(text)


def rows(count, seed):
    """Six numbers each, below ten in one label and from ten on in the other one; one of them is the other label's."""
    draw = np.random.default_rng(seed)
    labels = [("small", "large")[row % 2] for row in range(count)]
    found = draw.integers(0, 10, (count, 6)) + np.array([[10 * (label == "large")] for label in labels])
    found[:, 0] = (found[:, 0] + 10) % 20
    return found.tolist(), labels


def answer(inputs):
    return ["small" if 99 in row or np.mean(np.array(row) < 10) > 0.5 else "large" for row in inputs]


def test_a_data_set_and_a_model_of_it_are_audited():
    given, labels = rows(300, 0)
    for row in range(1, 25, 2):
        given[row], labels[row] = [*given[row], 99], "small"
    clean = rows(100, 1)
    for found in (
        audit_dataset(Numbers(given), labels),
        audit_answers(Numbers(given), labels, answer, Numbers(clean[0]), clean[1]),
    ):
        assert found.suspicious and (found.trigger, found.target) == (99, "small")
        assert found.rows == tuple(range(1, 25, 2)) and "'99', which calls for 'small' in 12 rows" in str(found)
