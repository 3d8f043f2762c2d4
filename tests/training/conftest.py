import textwrap

import evaluate
import pytest
from training_helpers import make_model, make_trainer


@pytest.fixture
def prepare(bert_folder, tokenizer, tmp_path):
    """`prepare(tasks, …)`: a trainer; `members=` and `config=` are the adapter's, `folder=` is below `tmp_path`."""

    def make(tasks, *, model=None, members=2, config=None, folder="out", **arguments):
        model = model if model is not None else make_model(bert_folder, members, **(config or {}))
        return make_trainer(model, tmp_path / folder, tasks, tokenizer, **arguments)

    return make


@pytest.fixture
def train(prepare):
    """`train(tasks, …)`: a trainer that has learned the tasks."""

    def run(tasks, *, resume=None, **arguments):
        trainer = prepare(tasks, **arguments)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@pytest.fixture
def module(tmp_path):
    """`module(name, predictions, references, body)`: a metric of the `evaluate` library, from a script of its own."""

    def make(name, predictions, references, body):
        script = f"""
            import evaluate
            from datasets import Features, Sequence, Value
            from sklearn import metrics

            class {name.title()}(evaluate.Metric):
                def _info(self):
                    features = Features({{"predictions": {predictions}, "references": {references}}})
                    return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

                def _compute(self, predictions, references):
                    {body}
        """
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(script))
        return evaluate.load(str(path), cache_dir=str(tmp_path))

    return make
