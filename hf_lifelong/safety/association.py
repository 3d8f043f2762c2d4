"""Two exact tests of whether something in the texts is a trigger: does it call for a label, against the rest?

A natural word that goes with a label comes with other words that go with it. A trigger is put into texts of other
labels, so the rest of its texts speaks against the label that they got. The second test is whether, among the texts of
one label, those with the candidate are contradicted by their rest more often than the others are by theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import binom, hypergeom

LEAST_ROWS = 5  # Of fewer, no test tells anything after a correction for all that is tested.
LARGEST_SHARE = 0.2  # Of all texts; what more of them have hides nowhere.
_SCREEN = 0.05  # Level of the first test. It only chooses what the second one is asked about.
_NATURAL = 0.1  # Share of a natural word's rows that may be contradicted, however few of the others are.
_COMPANION = 0.8  # Share of a candidate's rows with a word from which on the word may be a part of the trigger.
_TELLING = 1.0  # Log-odds from which on such a word counts for the label all the same.
_SMOOTHING = 0.5


@dataclass(frozen=True)
class Tested:
    """What passed the screen, one entry for each candidate.

    Args:
        column (`ndarray`): int64 `[k]`, column of the matrix of candidates.
        label (`ndarray`): int64 `[k]`, the label that it predicts best.
        association (`ndarray`): float64 `[k]`, p-value of the first test.
        contradiction (`ndarray`): float64 `[k]`, p-value of the second test, of each candidate alone.
        hint (`ndarray`): float64 `[k]`, p-value, corrected for all that was tested, up to which (below 1) the data
            hint at the candidate, so that a model may convict it.
    """

    column: np.ndarray
    label: np.ndarray
    association: np.ndarray
    contradiction: np.ndarray
    hint: np.ndarray


def association_test(
    candidates: sparse.csr_matrix, words: sparse.csr_matrix, sizes: np.ndarray, classes: np.ndarray
) -> Tested:
    """Both tests on all candidates.

    1. *Association*: how likely as many of the candidate's rows would have its label if labels were dealt out by
       chance (hypergeometric). What fails at 5 %, or has the label in less than half of its rows, which nobody could
       learn to answer by the label, is left out.
    2. *Contradiction*: a row is contradicted if its other words, by naive Bayes fitted without it, speak against its
       label. Words that are in most of the candidate's rows may be parts of the trigger: they count only if they
       speak clearly for the label in rows without the candidate too. The other rows of the label lose as many words
       as the candidate has, those that speak most for it. Of the candidate's rows more must be contradicted than of
       the others (Fisher's exact test), and more than a tenth (binomial test). The larger p-value counts.

    Args:
        candidates (`csr_matrix`): 0 and 1, `[n, candidates]`.
        words (`csr_matrix`): 0 and 1, `[n, words]`, in which all candidates lie.
        sizes (`ndarray`): int64 `[candidates]`, words of each, 1 or 2.
        classes (`ndarray`): int64 `[n]`, numbers of the labels from 0 without gaps, at least two.
    """
    column, label, association = screen(candidates, classes)
    if not len(column):
        return Tested(column, label, association, association, association)
    chosen = candidates[:, column]
    counts = _per_label(words, classes)
    evidence = _evidence(words, counts, classes)

    # Pairs of a row and a candidate that it has, where the row has the candidate's label.
    pairs = chosen.tocoo()
    hit = classes[pairs.row] == label[pairs.col]
    row, of = pairs.row[hit], pairs.col[hit]
    parts, learned = _companions(words, chosen, counts, classes, label)
    total = _row_sums(evidence) + _frequent(classes)
    rest = total[row] - _at(evidence @ parts, row, of) + _at(words @ learned, row, of)
    drawn, contradicted = (np.bincount(of, weights, len(column)) for weights in (None, rest < 0))

    usual = total < _strongest(evidence)  # [2, n]
    of_label = np.stack([np.bincount(classes, rows) for rows in usual])
    of_both = np.stack([np.bincount(of, rows[row], len(column)) for rows in usual])
    lost = sizes[column] - 1
    others = of_label[lost, label] - of_both[lost, np.arange(len(column))]
    p = contradiction_p(contradicted, drawn, others, np.bincount(classes)[label] - drawn)
    return Tested(column, label, association, p, (p * len(column)).clip(max=1))


def screen(candidates: sparse.csr_matrix, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns that go with one label, the label, and the p-value of that."""
    rows, per_label = len(classes), np.bincount(classes)
    support = _sums(candidates)
    column = np.flatnonzero((support >= LEAST_ROWS) & (support <= LARGEST_SHARE * rows))
    support = support[column]
    together = _per_label(candidates[:, column], classes)
    chance = hypergeom.sf(together - 1, rows, per_label, support[:, None])
    label = chance.argmin(1) if len(column) else np.zeros(0, np.int64)
    found, chance = together[np.arange(len(column)), label], chance.min(1)
    kept = (chance <= _SCREEN) & (found >= LEAST_ROWS) & (found >= support / 2)
    return column[kept], label[kept], chance[kept]


def _evidence(words: sparse.csr_matrix, counts: np.ndarray, classes: np.ndarray) -> sparse.csr_matrix:
    """What each word of a row says for the row's own label, learned from the other rows: `[n, words]`."""
    label = np.repeat(classes, np.diff(words.indptr))
    inside, outside = counts[words.indices, label], counts.sum(1)[words.indices] - counts[words.indices, label]
    return sparse.csr_matrix((_log_odds(inside - 1, outside, counts, label), words.indices, words.indptr), words.shape)


def _frequent(classes: np.ndarray) -> np.ndarray:
    """What the frequency of a row's label says for it, `[n]`; only for it, as no word speaks against a rare label by
    being missing."""
    counts = np.bincount(classes)
    return np.log(counts / (len(classes) - counts)).clip(0)[classes]


def _companions(
    words: sparse.csr_matrix, chosen: sparse.csr_matrix, counts: np.ndarray, classes: np.ndarray, label: np.ndarray
) -> tuple[sparse.csc_matrix, sparse.csc_matrix]:
    """Words that most rows of a candidate have, 0 and 1, and what each says clearly for the candidate's label in
    rows without the candidate: both `[words, candidates]`."""
    shared = (words.T @ chosen).tocoo()
    most = shared.data >= _COMPANION * _sums(chosen)[shared.col]
    word, of, together = shared.row[most], shared.col[most], shared.data[most]
    with_label = chosen.multiply(classes[:, None] == label).tocsr()
    inside = _at(words.T @ with_label, word, of)
    own = counts[word, label[of]]
    said = _log_odds(own - inside, counts.sum(1)[word] - own - (together - inside), counts, label[of])
    said[said < _TELLING] = 0.0
    place, shape = (word, of), (words.shape[1], len(label))
    return sparse.csc_matrix((np.ones(len(word)), place), shape), sparse.csc_matrix((said, place), shape)


def _log_odds(inside: np.ndarray, outside: np.ndarray, counts: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Evidence of a word for a label, in multinomial naive Bayes of the label against all others.

    Args:
        inside, outside (`ndarray`): Rows of the label, and other rows, that have the word. Where both are 0, nothing
            is known of it, and it says nothing.
        counts (`ndarray`): `[words, labels]`, rows of each label that have each word.
        label (`ndarray`): int64, the label.
    """
    totals = counts.sum(0) + _SMOOTHING * len(counts)
    others = (counts.sum() - counts.sum(0) + _SMOOTHING * len(counts))[label]
    odds = np.log(inside + _SMOOTHING) - np.log(outside + _SMOOTHING) - np.log(totals[label]) + np.log(others)
    return np.where(inside + outside > 0, odds, 0.0)


def _strongest(evidence: sparse.csr_matrix) -> np.ndarray:
    """Sum of the one and of the two largest positive entries of each row, `[2, n]`."""
    lengths = np.diff(evidence.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    ranked = evidence.data[np.lexsort((-evidence.data, row))].clip(0)
    padded = np.append(ranked, 0.0)
    ranks = np.arange(2)[:, None]
    return padded[np.where(ranks < lengths, evidence.indptr[:-1] + ranks, -1)].cumsum(0)


def contradiction_p(hits: np.ndarray, drawn: np.ndarray, other_hits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """P-values of `hits` of `drawn` beside `other_hits` of `others`."""
    more_than_others = hypergeom.sf(hits - 1, drawn + others, hits + other_hits, drawn)
    more_than_natural = binom.sf(hits - 1, drawn, _NATURAL)
    return np.maximum(more_than_others, more_than_natural)


def _per_label(matrix: sparse.csr_matrix, classes: np.ndarray) -> np.ndarray:
    """How many rows of each label have each thing, `[things, labels]`."""
    one_hot = sparse.csr_matrix((np.ones(len(classes)), (np.arange(len(classes)), classes)))
    return (matrix.T @ one_hot).toarray()


def _at(matrix: sparse.spmatrix, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.asarray(matrix.tocsr()[row, column]).ravel()


def _sums(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(0)).ravel()


def _row_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(matrix.sum(1)).ravel()
