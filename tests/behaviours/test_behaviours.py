"""What every kind of task does on every base, in the manner of PEFT's shared tests: behaviours times `rows.ROWS`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import hub  # noqa: F401
from peft import PeftModel, get_peft_model
from rows import ROWS, Row
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    pipeline,
)

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, export, forget, knowledge_of
from hf_lifelong.hub import push_to_hub

TENSORS = "adapter_model.safetensors"


@dataclass
class Case:
    """A row, and what it takes to train and to load it."""

    row: Row
    base_folder: Path
    place: Path

    def base(self, name: str | None = None, dtype: str | None = None) -> Any:
        auto = AutoModelForCausalLM if self.row.causal else AutoModel
        return auto.from_pretrained(name or self.base_folder, dtype=getattr(torch, dtype or self.row.dtype))

    @property
    def processor(self) -> Any:
        return (AutoImageProcessor if self.row.images else AutoTokenizer).from_pretrained(self.base_folder)

    def trainer(self, folder: str, tasks: Any = None, callbacks: Any = None, **arguments: Any) -> DriftTrainer:
        torch.manual_seed(0)
        config = {"r": 2, "members": 2, "signature_rank": 4, "max_length": 24, "stride": 4, **self.row.config}
        kind = {"task_type": "CAUSAL_LM"} if self.row.causal else {}
        model = get_peft_model(self.base(), DriftAdapterConfig(**config, **kind))
        settings = {
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "save_strategy": "steps",
            "save_steps": 2,
            "start_from": "fresh",  # what starts from another task keeps what it has from there
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        args = DriftTrainingArguments(str(self.place / folder), **{**settings, **self.row.arguments, **arguments})
        tasks = self.row.tasks() if tasks is None else tasks
        return DriftTrainer(model, args, tasks=tasks, processing_class=self.processor, callbacks=callbacks)

    def load(self, folder: Path | str | None = None, base: Any = None, **options: Any) -> Any:
        return PeftModel.from_pretrained(base or self.base(), folder or self.place / "out", **options).eval()

    @property
    def questions(self) -> list[Any]:
        return [self.row.ask(row) for task in self.row.tasks() for row in task.test]

    def answers(self, model: Any, questions: list[Any] | None = None, **options: Any) -> list[dict[str, Any]]:
        processor = {"image_processor" if self.row.images else "tokenizer": self.processor}
        answer = pipeline("lifelong", model=model, **processor)
        return answer(self.questions if questions is None else questions, **options)


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.name)
def case(request, tmp_path_factory, tiny_folder, tiny_language_folder, tiny_image_folder) -> Case:
    """A row that has learned its two tasks, in `place / "out"`."""
    row = request.param
    made = (tiny_language_folder if row.causal else tiny_image_folder if row.images else tiny_folder)(row.base)
    case = Case(row, made, tmp_path_factory.mktemp("case"))
    case.trainer("out").train()
    return case


@pytest.fixture(scope="session")
def expected(case) -> list[dict[str, Any]]:
    """What the saved adapter answers."""
    return case.answers(case.load())


@pytest.fixture(scope="session")
def one(case) -> Path:
    """The adapter without its second task."""
    model = case.load()
    forget(model, case.row.tasks()[1].name)
    model.save_pretrained(case.place / "one")
    return case.place / "one"


def close(answers: list[dict[str, Any]], others: list[dict[str, Any]], tolerance: float = 1e-4) -> None:
    """Whether answers are the same, numbers up to a tolerance."""
    assert len(answers) == len(others)
    for answer, other in zip(answers, others, strict=True):
        assert answer.keys() == other.keys()
        for key, value in answer.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[key], abs=tolerance), key
            else:
                assert value == other[key], key


def test_what_is_saved_is_loaded(case, expected, tmp_path):
    model = case.load()
    model.save_pretrained(tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == (case.place / "out" / TENSORS).read_bytes()
    assert case.answers(case.load(tmp_path)) == expected
    assert {answer["task"] for answer in expected} <= set(knowledge_of(model).names)


def test_low_memory_loading_gives_the_same(case, expected):
    assert case.answers(case.load(low_cpu_mem_usage=True)) == expected


def test_rows_that_are_mixed_answer_as_alone(case, expected):
    model = case.load()
    tolerance = 1e-4 if case.row.dtype == "float32" else 0.05
    alone = [answer for question in case.questions for answer in case.answers(model, [question])]
    close(alone, expected, tolerance)
    close(case.answers(model, batch_size=3), expected, tolerance)


def test_several_adapters_answer_for_themselves(case, expected, one):
    model = case.load()
    model.load_adapter(one, "other")
    model.set_adapter("other")
    assert case.answers(model) == case.answers(case.load(one))
    model.set_adapter("default")
    assert case.answers(model) == expected


def test_a_deleted_adapter_leaves_the_other(case, expected, one):
    model = case.load()
    model.load_adapter(one, "other")
    model.delete_adapter("other")
    assert case.answers(model) == expected


def test_a_disabled_adapter_gives_the_base(case):
    model, base = case.load(), case.base().eval()
    if case.row.images:
        batch = case.processor(case.questions, return_tensors="pt")
    else:
        batch = case.processor("a fine film", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**batch)[0], base(**batch)[0])


def test_a_copy_answers_the_same(case, expected):
    assert case.answers(copy.deepcopy(case.load())) == expected


def test_gradient_checkpointing_learns_the_same(case):
    case.trainer("checkpointing", gradient_checkpointing=True).train()
    plain, again = (load_file(case.place / folder / TENSORS) for folder in ("out", "checkpointing"))
    for name, tensor in plain.items():  # Adam makes much of the rounding of tiny gradients, so not number by number
        assert (again[name] - tensor).norm() <= 0.5 * tensor.norm(), name


def test_another_dtype_of_the_base_leaves_the_adapter_alone(case, tmp_path):
    dtype = "bfloat16" if case.row.dtype == "float32" else "float32"
    with pytest.warns(UserWarning, match="another dtype"):
        model = case.load(base=case.base(dtype=dtype))
    assert len(case.answers(model)) == len(case.questions)
    model.save_pretrained(tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == (case.place / "out" / TENSORS).read_bytes()


class Killed(TrainerCallback):
    """Ends a run in the middle of its second task."""

    def __init__(self) -> None:
        self.begun = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.begun == 2 and state.global_step == 3:
            raise KeyboardInterrupt


def test_a_killed_stream_ends_as_one_that_was_not(case):
    with pytest.raises(KeyboardInterrupt):
        case.trainer("killed", callbacks=[Killed()]).train()
    case.trainer("killed").train(resume_from_checkpoint=True)
    for name in (TENSORS, "adapter_config.json"):
        assert (case.place / "killed" / name).read_bytes() == (case.place / "out" / name).read_bytes()


def test_a_forgotten_task_leaves_what_would_be_there_without_it(case, tmp_path):
    first, second = case.row.tasks()
    case.trainer("without", tasks=[second]).train()
    model = case.load()
    forget(model, first.name)
    model.save_pretrained(tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == (case.place / "without" / TENSORS).read_bytes()
    assert knowledge_of(model).tasks == knowledge_of(case.load(case.place / "without")).tasks


@pytest.mark.filterwarnings("ignore:.*loads with PEFT, but")
def test_a_group_becomes_an_ordinary_lora_or_model(case, tmp_path, monkeypatch):
    report = export(case.load(), case.row.tasks()[0].name, tmp_path / "lora")
    code = (report.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    if case.row.images:
        case.questions[0].save(report.folder / "photo.jpg")
    monkeypatch.chdir(report.folder)
    names: dict[str, Any] = {}
    with torch.no_grad():  # also puts gradients back, which the code of the card switches off
        exec(code, names)
    assert report.error == 0
    if case.row.config.get("r") == "full":
        assert report.rank is None and (report.folder / "model.safetensors").exists()
    else:
        assert names["model"].peft_config["default"].peft_type == "LORA"
    assert names["logits"].isfinite().all()


def test_a_pushed_adapter_comes_back(case, expected, hub):  # noqa: F811
    hub.write_folder("me/base", case.base_folder)
    push_to_hub(case.place / "out", "me/learner", base_model="me/base")
    assert case.answers(case.load("me/learner", base=case.base("me/base"))) == expected
