"""A forgotten task leaves no trace on the disk, also where other processes were killed or want the same folder."""

import os
import shutil

import pytest
import safetensors.torch
import torch
from learned import learn_task
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.cli.forget import forget_saved
from hf_lifelong.hub import pull
from hf_lifelong.loading import load
from hf_lifelong.utils.folders import BusyFolderError

MEAN = "base_model.model.lifelong.drift_signature_mean"


@pytest.fixture(scope="module")
def saved(bert_folder, tokenizer, tmp_path_factory):
    """A folder with three tasks, not to be changed."""
    folder = tmp_path_factory.mktemp("forgetting") / "saved"
    config = DriftAdapterConfig(r=2, members=2, signature_rank=4)
    model = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), config)
    for seed, name in enumerate(("films", "news", "mail")):
        learn_task(model, name, "text-classification", ("bad", "good"), seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def own(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "own")


def names(folder):
    return pull(folder).knowledge.names


def test_nothing_of_a_task_is_left_on_the_disk(own, tmp_path):
    tensors = (own / "adapter_model.safetensors").read_bytes()
    forgotten = safetensors.torch.load(tensors)[MEAN][0].numpy().tobytes()
    for place in (
        *(own / name for name in ("_stream/commit-1", "_stream/.commit-2.0a1b2c3d.unfinished", "checkpoint-4")),
        *(tmp_path / name for name in (".own.0a1b2c3d.unfinished", ".own.0a1b2c3d.old")),
    ):
        place.mkdir(parents=True)
        (place / "adapter_model.safetensors").write_bytes(tensors)
        (place / "adapter_config.json").write_text("films")
    (own / ".adapter_model.safetensors.unfinished").write_bytes(tensors)
    (own / "._stream.lock").touch()
    forget_saved(pull(own), "films", own)
    assert names(own) == ["news", "mail"] and os.listdir(tmp_path) == ["own"]
    assert not [name for name in os.listdir(own) if name.startswith((".", "_", "checkpoint"))]
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"films" not in content or path.name in ("vocab.txt", "tokenizer.json"), path
        assert forgotten not in content, path


def test_a_task_that_is_not_known_changes_nothing_and_ends_what_was_killed(own, tmp_path):
    (tmp_path / ".own.0a1b2c3d.unfinished").mkdir()
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    with pytest.raises(KeyError, match="no task `sport`"):
        forget_saved(pull(own), "sport", own)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before and os.listdir(tmp_path) == ["own"]


def in_a_child(function, *args):
    if (child := os.fork()) == 0:
        code = 2
        try:
            function(*args)
            code = 0
        except BusyFolderError:
            code = 1
        finally:
            os._exit(code)
    return child


def test_two_processes_forget_one_after_the_other_or_one_is_told(own, tmp_path):
    before = pull(own)  # both look first
    children = {in_a_child(forget_saved, before, name, own): name for name in ("films", "mail")}
    codes = {children[child]: os.waitstatus_to_exitcode(status) for child, status in (os.wait() for _ in children)}
    assert set(codes.values()) <= {0, 1} and 0 in codes.values()
    left = [name for name in ("films", "news", "mail") if codes.get(name) != 0]
    assert names(own) == left and os.listdir(tmp_path) == ["own"]
    load(own)


def test_a_new_folder_is_not_written_twice(own, tmp_path):
    before = pull(own)
    children = [in_a_child(forget_saved, before, name, tmp_path / "new") for name in ("films", "mail")]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes[0] == 0 and codes[1] > 0  # told that it is not empty any more, or that somebody writes it
    assert names(tmp_path / "new") in (["news", "mail"], ["films", "news"])
