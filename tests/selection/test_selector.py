"""`InputSelector`: it finds planted inputs, says when it does not know, and is what scikit-learn calls a selector."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from planted import planted
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from hf_lifelong.selection import InputSelector, plot_importances, plot_overlap, plot_path, support_overlap

QUICK = {"hidden": 20, "repeats": 5, "max_iter": 100, "random_state": 0}


@pytest.fixture(scope="module")
def fitted():
    return InputSelector(**QUICK).fit(*planted())


def test_scikit_learn_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most of their data says nothing
        check_estimator(InputSelector(hidden=4, repeats=2, max_iter=10), on_skip=None)


def test_planted_inputs_are_found(fitted):
    assert fitted.found_ and fitted.reason_ is None
    assert fitted.get_support(indices=True).tolist() == [0, 1, 2]
    assert fitted.stability_[:3].min() == 1 and fitted.stability_score_ > 0.8
    walk = fitted.path_
    assert walk.importances.shape == (len(walk.lam), 5, 20) and (np.diff(walk.lam) < 0).all()
    # Under the adaptive penalty nearly all others are exactly zero, and those that matter are hardly shrunk.
    best = np.median(walk.importances[walk.loss.argmin()], axis=0)
    assert (fitted.importances_[3:] > 0).sum() <= 1 < (best[3:] > 0).sum()
    assert (fitted.importances_[:3] > best[:3]).all()
    assert fitted.lam_ == walk.lam[walk.loss.argmin()] and walk.gain.max() > 10 * walk.gain_error.min()


def test_an_even_effect_is_found_where_no_correlation_is():
    x, _ = planted(seed=3)
    selector = InputSelector(**QUICK, penalty="group").fit(x, np.abs(x[:, 4]) + np.abs(x[:, 7]))
    assert selector.get_support(indices=True).tolist() == [4, 7]


def test_networks_of_the_paper_are_recovered():
    """The setting of the paper's first table, at σ = .5 (p = 100, 10 relevant inputs, 16 neurons, n = 500)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(500, 100, generator=generator)
    weight = torch.rand(10, 16, generator=generator) * 2 - 1
    bias, out = torch.rand(16, generator=generator) * 2 - 1, torch.randn(16, generator=generator).sign()
    y = (x[:, :10] @ weight + bias).relu() @ out + 0.5 * torch.randn(500, generator=generator)
    selector = InputSelector(penalty="group", repeats=3, max_iter=150, random_state=0).fit(x.numpy(), y.numpy())
    assert selector.found_ and selector.support_[:10].sum() >= 9 and selector.support_[10:].sum() <= 1
    assert selector.importances_[:10].min() > selector.importances_[10:].max()


@pytest.mark.parametrize("labels", [["no", "yes"], ["low", "middle", "high"]])
def test_classes(labels):
    x, y = planted(seed=1, rows=300, noise=0)
    bins = np.quantile(y, np.linspace(0, 1, len(labels) + 1)[1:-1])
    selector = InputSelector(**QUICK).fit(x, np.array(labels)[np.digitize(y, bins)])
    assert selector.classes_.tolist() == sorted(labels)
    assert selector.found_ and selector.get_support(indices=True).tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.filterwarnings("ignore:It is not known which inputs matter")
def test_random_labels_are_not_explained(classes):
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(100, 15)), rng.normal(size=100) if classes is None else rng.integers(classes, size=100)
        selector = InputSelector(hidden=8, repeats=4, max_iter=40, random_state=seed).fit(x, y)
        found += selector.found_
        assert selector.found_ or (selector.reason_ and not selector.support_.any())
    assert found <= 1


def test_inputs_that_say_the_same_are_unstable():
    x, y = planted(rows=120, inputs=1, relevant=1)
    rng = np.random.default_rng(0)
    copies = x + 0.05 * rng.normal(size=(120, 12))
    with pytest.warns(UserWarning, match="not known which inputs matter"):
        selector = InputSelector(**QUICK, cut=3).fit(np.hstack([copies, rng.normal(size=(120, 12))]), y)
    assert not selector.found_ and "min_stability" in selector.reason_
    assert selector.support_.sum() == 3 and not selector.support_[12:].any()  # asked for all the same


def test_cuts(fitted):
    x, y = planted()
    top = InputSelector(**QUICK, cut=5).fit(x, y)
    assert top.support_.sum() == 5 and top.support_[:3].all()
    share = InputSelector(**QUICK, cut=0.3).fit(x, y)
    assert share.support_.tolist() == (share.importances_ >= 0.3 * share.importances_.max()).tolist()
    with pytest.warns(UserWarning, match="asks for 1 inputs, but 3 stand out"):
        InputSelector(**QUICK, cut=1, min_stability=0.0).fit(x, y)


def test_the_same_seed_gives_the_same_bytes(fitted):
    again = clone(fitted).fit(*planted())
    assert again.importances_.tobytes() == fitted.importances_.tobytes()
    other = clone(fitted).set_params(random_state=1).fit(*planted())
    assert other.importances_.tobytes() != fitted.importances_.tobytes()


def test_units_do_not_matter(fitted):
    x, y = planted()
    scaled = clone(fitted).fit(x * np.logspace(-4, 4, 20) + 7, 1000 * y - 5)
    assert scaled.importances_ == pytest.approx(fitted.importances_, abs=1e-2)
    assert scaled.support_.tolist() == fitted.support_.tolist()


def test_data_frames_and_pipelines():
    x, y = planted()
    frame = pd.DataFrame(x, columns=[f"c{i}" for i in range(20)])
    selector = InputSelector(**QUICK).set_output(transform="pandas")
    out = selector.fit_transform(frame, pd.Series(y))
    assert list(out.columns) == list(selector.get_feature_names_out()) == ["c0", "c1", "c2"]
    pd.testing.assert_frame_equal(out, frame[["c0", "c1", "c2"]])
    model = make_pipeline(InputSelector(**QUICK), Ridge()).fit(frame, y)
    assert model[-1].n_features_in_ == 3 and model.score(frame, y) > 0.6
    loaded = pickle.loads(pickle.dumps(selector))
    pd.testing.assert_frame_equal(loaded.transform(frame), out)


def test_constant_columns_have_no_importance():
    x, y = planted()
    x[:, 5], x[:, 6] = 0.1 + 0.2, 1e9
    selector = InputSelector(**QUICK).fit(x, y)
    assert selector.importances_[5] == selector.importances_[6] == selector.stability_[5] == 0
    assert selector.get_support(indices=True).tolist() == [0, 1, 2]


def with_value(value):
    x, y = planted(rows=30, inputs=4)
    x = x.astype(object)
    x[3, 2] = value
    return x, y


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (with_value(np.nan), {}, "NaN"),
        (with_value(np.inf), {}, "infinity"),
        (with_value("red"), {}, "could not convert string to float: 'red'"),
        (planted(rows=9, inputs=4), {}, "9 sample.* minimum of 10"),
        ((np.ones((30, 4)), planted(rows=30)[1]), {}, "`X` are constant"),
        ((planted()[0], np.ones(200)), {"target": "regression"}, "`y` is the same"),
        ((planted()[0], ["a"] * 200), {}, "`y` has one class"),
        ((planted()[0], np.arange(200)), {}, 'target="regression"'),
        ((planted()[0], ["a", "b"] * 100), {"target": "regression"}, "`y` must be numbers"),
        (planted(), {"target": "classification"}, "continuous"),
        (planted(), {"hidden": 0}, "`hidden`"),
        (planted(), {"repeats": 1}, "`repeats`"),
        (planted(), {"max_iter": 1.5}, "`max_iter`"),
        (planted(), {"penalty": "l2"}, "`penalty`"),
        (planted(), {"lam": 2.0}, "`lam`"),
        (planted(), {"lam": "cv"}, "`lam`"),
        (planted(), {"cut": 0}, "`cut`"),
        (planted(), {"cut": 21}, "`cut` asks for 21 inputs, `X` has 20"),
        (planted(), {"cut": 1.0}, "`cut`"),
        (planted(), {"min_stability": "high"}, "`min_stability`"),
        (planted(), {"target": "ranking"}, "`target`"),
    ],
)
def test_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        InputSelector(**{**QUICK, **options}).fit(*data)


def test_pictures(fitted, tmp_path):
    plot_path(fitted, tmp_path / "path.png")
    plot_importances(fitted, tmp_path / "importances.png", names=[f"c{i}" for i in range(20)])
    overlap = support_overlap({"a": fitted.support_}, {"a": fitted.importances_})
    plot_overlap(overlap, tmp_path / "overlap.png")
    for name in ("path", "importances", "overlap"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="`names` has 1"):
        plot_importances(fitted, tmp_path / "x.png", names=["a"])
