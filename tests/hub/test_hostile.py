"""Hostile adapters, as folders and as repositories of a Hub: one clear error each, before a base is fetched, at no
cost. Nothing of them is run, and no file but those of the cache is made or changed."""

import json
import os
import pickle
import struct
import time
import tracemalloc

import pytest
import torch
from hub_helpers import base, encode, learn  # noqa: F401
from hub_server import hub  # noqa: F401
from jinja2.exceptions import SecurityError
from peft import AutoPeftModelForFeatureExtraction, get_peft_model
from safetensors.torch import load, save
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.knowledge import FORMAT
from hf_lifelong.loading import load as load_adapter

REPO = "evil/learner"
CONFIG, TENSORS, TOKENIZER = "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"
BANK = "base_model.model.encoder.layer.3.output.dense.drift_bank_A"
HEADS = "base_model.model.lifelong.drift_bank_head_weight"


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


# How an adapter is made hostile: each takes the files of a sound one, as bytes by name, and changes them.


def inside(*path):
    """What changes fields of one object in the configuration."""

    def with_fields(**changes):
        def change(files, _):
            held = found = json.loads(files[CONFIG])
            for key in path:
                found = found[key]
            found.update(changes)
            files[CONFIG] = json.dumps(held).encode()

        return change

    return with_fields


config, manifest, task = inside(), inside("knowledge"), inside("knowledge", "tasks", 0)
base_facts, scores = inside("knowledge", "base"), inside("knowledge", "scores")


def text(old, new):
    """Replaces text of the configuration, for JSON that Python would not write."""

    def change(files, _):
        assert old.encode() in files[CONFIG]
        files[CONFIG] = files[CONFIG].replace(old.encode(), new.encode(), 1)

    return change


def inside_tokenizer(**changes):
    def change(files, _):
        files["tokenizer.json"] = json.dumps({**json.loads(files["tokenizer.json"]), **changes}).encode()

    return change


def lacking(key):
    def change(files, _):
        held = json.loads(files[CONFIG])
        del held[key]
        files[CONFIG] = json.dumps(held).encode()

    return change


def content(name, data):
    def change(files, _):
        files[name] = data

    return change


def tensors(function):
    def change(files, _):
        held = load(files[TENSORS])
        function(held)
        files[TENSORS] = save(held, metadata={"format": "pt"})

    return change


def header(function):
    """Changes the header of the tensors, their bytes stay."""

    def change(files, _):
        length = struct.unpack("<Q", files[TENSORS][:8])[0]
        held, rest = json.loads(files[TENSORS][8 : 8 + length]), files[TENSORS][8 + length :]
        found = function(held)
        new = found if isinstance(found, bytes) else json.dumps(held).encode()
        files[TENSORS] = struct.pack("<Q", len(new)) + new + rest

    return change


def twice(held):
    return (json.dumps(held)[:-1] + f', "{BANK}": {json.dumps(held[BANK])}}}').encode()


def overlap(held):
    held[BANK]["data_offsets"] = [0, held[BANK]["data_offsets"][1] - held[BANK]["data_offsets"][0]]


def cut(files, _):
    files[TENSORS] = files[TENSORS][:-100]


def longer(files, _):
    files[TENSORS] += b"\0" * 100


def length_lie(length):
    def change(files, _):
        files[TENSORS] = struct.pack("<Q", length) + files[TENSORS][8:]

    return change


def pickled(*names, alone):
    def change(files, canary):
        if alone:
            del files[TENSORS]
        files.update(dict.fromkeys(names, pickle.dumps(Canary(canary / "unpickled"))))

    return change


def widen(held):
    for name, tensor in list(held.items()):
        if "layer.3.output.dense.drift" in name:
            wide = torch.zeros(*tensor.shape[:-1], 4000) if name.endswith("_A") else tensor.clone()
            held[name.replace("layer.3", "layer.9")] = wide


def put(name, value):
    return lambda held: held.__setitem__(name, value)


COUNT = r"must be an integer from 1 to 2147483648, not"
SETTING = "it must be an integer from 1 to"
HOSTILE = {
    # Counts
    "10^11 members": (task(members=10**11), rf"tasks\[0\].members` {COUNT} 100000000000"),
    "2·10^9 members": (task(members=2 * 10**9), r"has shape \(4, 32\), it must be \(4000000000, 32\), to fit"),
    "no members": (task(members=0), rf"tasks\[0\].members` {COUNT} 0"),
    "negative members": (task(members=-2), rf"tasks\[0\].members` {COUNT} -2"),
    "float members": (task(members=2.0), rf"tasks\[0\].members` {COUNT} 2.0"),
    "boolean members": (task(members=True), rf"tasks\[0\].members` {COUNT} True"),
    "text as members": (task(members="2"), rf"tasks\[0\].members` {COUNT} '2'"),
    "no examples": (task(examples=0), rf"tasks\[0\].examples` {COUNT} 0"),
    "negative width": (task(width=-1), r"tasks\[0\].width` must be an integer from 0"),
    "width of no head": (task(width=0), "task `films`: a head of 0 rows does not fit its kind, text-classification"),
    "negative trunk": (manifest(trunk=-1), "`knowledge.trunk` must be an integer from 0"),
    "depths above the trunk": (manifest(depths=[0, 4]), "`knowledge.depths` must be an integer from 0 to 2, not 4"),
    "no rank": (config(r=0), f"`r` is 0; {SETTING} 65536"),
    "huge rank": (config(r=10**12), f"`r` is 1000000000000; {SETTING} 65536"),
    "float rank": (config(r=2.0), f"`r` is 2.0; {SETTING} 65536"),
    "other rank": (config(r=3), r"has shape \(2, 32\), it must be \(3, 32\), to fit `adapter_config.json`"),
    "negative signature": (config(signature_rank=-4), f"`signature_rank` is -4; {SETTING} 65536"),
    "hidden size of a float": (base_facts(hidden_size=32.0), "`knowledge.base.hidden_size` must be a positive"),
    "other hidden size": (base_facts(hidden_size=33), r"has shape \(0, 32\), it must be \(0, 33\), to fit"),
    "no layers": (base_facts(layers=0), "`knowledge.base.layers` must be a positive integer"),
    # Settings that a new configuration could not have either
    "text as a switch": (config(per_batch="no"), "adapter_config.json`: `per_batch` is 'no'; it must be true or"),
    "number as a switch": (config(inference_mode=1), "`inference_mode` is 1; it must be true or false"),
    "huge scale": (config(lora_alpha=1e300), r"`lora_alpha` is 1e\+300; it must be .*at most 1,000,000"),
    "boolean scale": (config(lora_alpha=True), "`lora_alpha` is True; it must be a number above 0"),
    "boolean dropout": (config(lora_dropout=True), r"`lora_dropout` is True; it must be a probability in \[0, 1\)"),
    "huge length": (config(max_length=10**9), f"`max_length` is 1000000000; {SETTING} 1048576"),
    "huge answers": (config(max_new_tokens=10**9), f"`max_new_tokens` is 1000000000; {SETTING} 1048576"),
    "negative stride": (config(stride=-1), "`stride` is -1; it must be an integer from 0 to 1048576"),
    "a million members a task": (config(members=10**6), f"`members` is 1000000; {SETTING} 10000"),
    "unknown policy": (config(retrieval="dice"), "`retrieval` is 'dice'; choose one of"),
    "policy that is a list": (config(answer=["merged"]), r"`answer` is \['merged'\]; choose one of"),
    "no rank of signatures": (lacking("signature_rank"), "it lacks `signature_rank`"),
    # What is not finite, or no share
    "NaN as score": (text('"score": 0.5', '"score": NaN'), r"`.*adapter_config.json` .*not valid JSON \(NaN is not"),
    "infinite score": (text('"score": 0.5', '"score": -Infinity'), "-Infinity is not JSON"),
    "overflowing score": (text('"score": 0.5', '"score": 1e999'), r"tasks\[0\].score` must be a share.*inf"),
    "boolean score": (task(score=True), r"tasks\[0\].score` must be a share"),
    "score above 1": (task(score=1.5), r"tasks\[0\].score` must be a share in \[0, 1\], not 1.5"),
    "NaN in a tensor": (tensors(lambda t: t[HEADS].fill_(float("nan"))), "holds NaN or infinite values"),
    "matrix of text": (scores(scores="x"), "adapter_config.json`: .*scores"),
    "ragged matrix": (scores(scores=[[0.9, 0.8, 0.7]]), "adapter_config.json`: .*scores"),
    "overflowing matrix": (text("0.9", "1e999"), "adapter_config.json`: "),
    "matrix of other fields": (scores(colour="red"), "adapter_config.json`: .*'colour'"),
    # Names
    "task of another group": (task(group="nobody"), r"tasks\[0\].group`: `nobody` is no earlier task"),
    "task name that is a number": (task(name=7), r"tasks\[0\].name` must be a str"),
    "labels that are numbers": (task(labels=[0, 1]), r"tasks\[0\].labels` must be a str"),
    "empty label": (task(labels=["", "a"]), "task `films`: `labels` are .*empty or twice"),
    "half a character": (task(labels=["a", "\ud800"]), "task `films`: .*holds half a character"),
    "labels twice": (task(labels=["a", "a"]), "`films`: `labels` are .*empty or twice"),
    "names that move the cursor": (task(group="\x1b[2J\nnobody"), r"tasks\[0\].group`: ` \[2J nobody` is no earlier"),
    "a name of 1 MB": (task(group="x" * 1_000_000), r"tasks\[0\].group`: `x+…x+$"),
    "unknown kind": (task(kind="../../kind"), r"`kind` is '../../kind'"),
    "constants of no number": (task(constants={"mean": "1"}), r"tasks\[0\].constants` must be numbers"),
    "constants too large": (task(constants={"mean": 10**400}), r"tasks\[0\].constants` must be numbers"),
    "many constants": (task(constants={str(i): 1.0 for i in range(101)}), "has 101 entries, more than 100"),
    "constants of a kind that has none": (
        task(constants={"mean": 1.0}),
        "`constants` are .*classification task has none",
    ),
    "template with attributes": (task(template="{text.__class__}"), r"only names of columns.*'text.__class__'"),
    "template with items": (task(template="{text[0]}"), r"only names of columns.*'text\[0\]'"),
    "template with a width": (task(template="{text:>99999999}"), "only names of columns may stand in braces"),
    "template that is cut off": (task(template="{text"), "`template` '{text' cannot be read"),
    # Bases
    "base of this machine": (config(base_model_name_or_path="/etc"), "must name its base by a name on the Hub"),
    "base above": (config(base_model_name_or_path="../../../etc"), "must name its base by a name on the Hub"),
    "base of an address": (config(base_model_name_or_path="file:///etc"), "must name its base by a name on the Hub"),
    "base where this runs": (config(base_model_name_or_path="."), "must name its base by a name on the Hub"),
    "base that is a folder here": (config(base_model_name_or_path="here/base"), "is also a folder here, and would be"),
    "no base": (config(base_model_name_or_path=None), "must name the base in printable characters, not None"),
    "base of two lines": (config(base_model_name_or_path="a\nb"), "must name the base in printable characters"),
    "base that is a list": (config(base_model_name_or_path=["a"]), r"must name the base in .*, not \['a'\]"),
    "base that is an adapter": (config(base_model_name_or_path=REPO), f"is `{REPO}`, which is an adapter, no base"),
    "unknown base": (config(base_model_name_or_path="no/body"), "The base `no/body` was not loaded"),
    "revision that is a path": (config(revision="../../../x"), "`revision` must be a branch, tag or commit"),
    "dtype of nothing": (base_facts(dtype="__import__"), "`knowledge.base.dtype` must be one of"),
    "model type that is a list": (base_facts(model_type=[]), "`knowledge.base.model_type` must be a string"),
    "model type that moves the cursor": (
        base_facts(model_type="bert\x1b[2J"),
        "`knowledge.base.model_type` must be a string of at most 100 printable characters, not 'bert.x1b",
    ),
    "model type of 1 MB": (base_facts(model_type="x" * 1_000_000), "`knowledge.base.model_type` must be a string"),
    "fingerprint of two lines": (base_facts(fingerprint="a\nb"), "`knowledge.base.fingerprint` must be a string"),
    # Code
    "auto_mapping": (
        config(auto_mapping={"base_model_class": "system", "parent_library": "os"}),
        "`auto_mapping` asks for code from elsewhere, which is never run",
    ),
    "auto_map": (config(auto_map={"AutoModel": "evil.Model"}), "`auto_map` asks for code from elsewhere"),
    "tokenizer that breaks down": (
        inside_tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        r"tokenizer.json` cannot be used: no tokenizer can be made of it .*The tokenizer broke down \(Precompiled",
    ),
    "code with the tokenizer": (
        content(TOKENIZER, b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}'),
        "tokenizer_config.json`: `auto_map` asks for code from elsewhere",
    ),
    "pickle alone": (pickled("adapter_model.bin", alone=True), "`adapter_model.bin` is not read, because a pickle"),
    "pickle as safetensors": (pickled(TENSORS, alone=True), r"adapter_model.safetensors` cannot be used: its header"),
    # JSON
    "list": (content(CONFIG, b"[]"), "it is the configuration of no lifelong adapter"),
    "text": (content(CONFIG, b'"DRIFT"'), "it is the configuration of no lifelong adapter"),
    "nothing": (content(CONFIG, b""), r"adapter_config.json` cannot be used: it is missing or empty"),
    "not UTF-8": (content(CONFIG, b'{"a": "\xff"}'), "it is not valid JSON"),
    "UTF-16": (content(CONFIG, '{"a": 1}'.encode("utf-16")), "it is not valid JSON"),
    "deep list": (content(CONFIG, b"[" * 100_000 + b"]" * 100_000), "it is not valid JSON"),
    "deep base": (text('"fingerprint"', '"x": ' + "[" * 200 + "]" * 200 + ', "fingerprint"'), "deeper than 64"),
    "cut off": (content(CONFIG, b'{"peft_type": "DRIFT"'), "it is not valid JSON"),
    "three million lists": (
        content(CONFIG, b"[" + b"[]," * 3_000_000 + b"[]]"),
        "more than 200,000 lists and objects",
    ),
    "number of 10,000 digits": (text('"r": 2', '"r": ' + "9" * 10_000), "it is not valid JSON"),
    "a key twice": (text('"r": 2', '"r": 2, "r": 2'), "a key stands twice"),
    "a manifest twice": (text('"knowledge"', '"knowledge": null, "knowledge"'), "a key stands twice"),
    "LoRA": (config(peft_type="LORA"), r"no lifelong adapter \(`peft_type` must be `DRIFT`\)"),
    "unknown method": (config(peft_type="EVIL"), "no lifelong adapter"),
    "unknown task type": (config(task_type="SEQ_CLS"), "adapter_config.json`: `task_type` is 'SEQ_CLS'"),
    "task type of a list": (config(task_type=["CAUSAL_LM"]), "adapter_config.json`: .*task"),
    "text as alpha": (config(lora_alpha="16"), "`lora_alpha` is '16'; it must be a number above 0"),
    "list of lists as targets": (
        config(target_modules=[["query"]]),
        "`target_modules` must be a list of the layers",
    ),
    "pattern without end": (
        config(target_modules="(([a-z.0-9]+)+)+!"),
        "`target_modules` must be a list of the layers",
    ),
    "no targets": (config(target_modules=[]), "`target_modules` must be a list of the layers' names"),
    "text as trunk depth": (config(trunk_depth="deep"), "`trunk_depth` is 'deep'; it must be a share"),
    "manifest of a list": (config(knowledge=[]), "`knowledge` must be an object, not list"),
    "newer format": (manifest(format=FORMAT + 1), "adapter_config.json`: `knowledge.format` is 7.*upgrade with"),
    "format that is true": (manifest(format=True), "`knowledge.format` must be a positive integer"),
    "constants of a list": (manifest(constants=[]), "`knowledge.constants` must be a dict, not list"),
    "many candidates": (
        inside("knowledge", "constants")(candidates=10**9),
        "constants.candidates` must be an integer",
    ),
    "share that is no number": (inside("knowledge", "constants")(own_share="1"), "own_share` must be a number from 0"),
    "share above all": (inside("knowledge", "constants")(own_share=1.0), "own_share` must be a number from 0 to 0.99"),
    "rule of elsewhere": (inside("knowledge", "constants")(projection="os.system"), "projection` must be one of"),
    "field of elsewhere": (manifest(code="x"), r"unknown fields \['code'\]"),
    # Tensors
    "no tensors": (lambda files, _: files.pop(TENSORS), f"{TENSORS}` cannot be used: it is missing or empty"),
    "empty tensors": (content(TENSORS, b""), f"{TENSORS}` cannot be used"),
    "tensors cut off": (cut, f"{TENSORS}` cannot be used"),
    "tensors too long": (longer, f"{TENSORS}` cannot be used"),
    "header longer than the file": (length_lie(10**6), f"{TENSORS}` cannot be used"),
    "header of 2^63 bytes": (length_lie(2**63), f"{TENSORS}` cannot be used: its header"),
    "header of nothing": (length_lie(0), f"{TENSORS}` cannot be used"),
    "header that is a list": (header(lambda _: b"[]"), f"{TENSORS}` cannot be used"),
    "deep header": (header(lambda _: b"[" * 99_999 + b"]" * 99_999), f"{TENSORS}` cannot be used"),
    "tensor twice": (header(twice), f"{TENSORS}` cannot be used: .*a key stands twice"),
    "offsets that overlap": (header(overlap), f"{TENSORS}` cannot be used"),
    "huge shape": (header(lambda h: h[BANK].update(shape=[2, 2, 10**15])), f"{TENSORS}` cannot be used"),
    "negative shape": (header(lambda h: h[BANK].update(shape=[2, 2, -48])), f"{TENSORS}` cannot be used"),
    "float shape": (header(lambda h: h[BANK].update(shape=[2, 2.0, 48])), f"{TENSORS}` cannot be used"),
    "dtype that is none": (header(lambda h: h[BANK].update(dtype="PY")), f"{TENSORS}` cannot be used"),
    "half precision": (
        tensors(lambda t: t.update({BANK: t[BANK].half()})),
        "drift_bank_A` is float16, it must be float32",
    ),
    "integers": (tensors(lambda t: t.update({BANK: t[BANK].long()})), "drift_bank_A` is int64, it must be float32"),
    "missing tensor": (tensors(lambda t: t.pop(BANK)), "layer.3.output.dense.drift_bank_A` is missing"),
    "missing heads": (tensors(lambda t: t.pop(HEADS)), "`lifelong.drift_bank_head_weight` is missing"),
    "tensor under two names": (
        tensors(lambda t: t.update({BANK.removeprefix("base_model.model."): t[BANK].clone()})),
        "drift_bank_A` stands twice, to fit",
    ),
    "text as shape": (header(lambda h: h[BANK].update(shape=[2, 2, "48"])), f"{TENSORS}` cannot be used"),
    "surplus tensor": (tensors(put("evil", torch.zeros(1))), "`evil` is surplus, to fit"),
    "weights of the base": (tensors(put("embeddings.weight", torch.zeros(1))), "`embeddings.weight` is surplus"),
    "more members than stated": (
        tensors(lambda t: t.update({BANK: t[BANK].repeat(2, 1, 1)})),
        r"\(4, 2, 48\), it must be \(2, 2, 48\)",
    ),
    "other dimensions": (tensors(lambda t: t.update({BANK: t[BANK].flatten(1)})), "it must have 3 dimensions"),
    "wide layer": (tensors(widen), "layer.9.output.dense` is more than 64 times as wide as the base"),
    # Tokenizers and the rest
    "tokenizer of a path": (content(TOKENIZER, b'{"tokenizer_file": "/etc/passwd"}'), "`tokenizer_file` names a file"),
    "tokenizer of a list": (content(TOKENIZER, b"[]"), "tokenizer_config.json` must hold an object, not list"),
    "tokenizer config cut off": (content(TOKENIZER, b"{"), "tokenizer_config.json` cannot be used: it is not valid"),
    "tokenizer that is none": (content("tokenizer.json", b"{}"), "tokenizer.json` cannot be used: no tokenizer can"),
    "deep tokenizer": (content("tokenizer.json", b"[" * 100_000), "tokenizer.json` cannot be used: no tokenizer can"),
    "huge card": (content("README.md", b"x" * 11_000_000), "README.md` .*11,000,000 bytes, more than the 10,000,000"),
}
# Only an adapter that somebody else put on the Hub must not name a folder as its base.
HUB_ONLY = {
    *("base of this machine", "base above", "base of an address", "base where this runs"),
    "base that is a folder here",
}


@pytest.fixture(scope="module")
def sound(tiny_folder, tokenizer, tmp_path_factory):
    """The files of a sound adapter, by name."""
    folder = tmp_path_factory.mktemp("sound")
    model = get_peft_model(
        AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32),
        DriftAdapterConfig(r=2, members=2, signature_rank=4),
    )
    learn(model, "films").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    held = {**json.loads(files[CONFIG]), "base_model_name_or_path": "other/tiny-bert"}
    return {**files, CONFIG: json.dumps(held).encode()}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Everything outside of the cache: where this runs, and a folder that nobody should touch."""
    (tmp_path / "cwd" / "here" / "base").mkdir(parents=True)
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "kept").write_text("as it was")
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def listing(place):
    return {
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.rglob("*")
        if "hf_home" not in path.relative_to(place).parts
    }


def write_all(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def refused(place, name, match, kinds=(ValueError, OSError)):
    """`load` raises one line that matches, at once, without memory, and touches nothing outside of the cache."""
    before = listing(place)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(kinds, match=match) as caught:
        load_adapter(name)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert seconds < 10  # what would take all memory, or never end, takes more on any machine
    assert peak < 20_000_000
    assert listing(place) == before


@pytest.fixture(scope="module", autouse=True)
def imported(sound, tmp_path_factory):
    """First uses import parts of transformers, which takes seconds."""
    folder = write_all(tmp_path_factory.mktemp("first") / "adapter", sound)
    with pytest.raises(OSError):
        load_adapter(folder)


# What is noticed when the base is there, or is about the base.
NEEDS_BASE = {"NaN in a tensor", "unknown base", "base that is an adapter"}


@pytest.mark.parametrize("case", [case for case in HOSTILE if case not in HUB_ONLY])
def test_a_hostile_folder_is_refused(case, sound, hub, base, places):  # noqa: F811
    change, match = HOSTILE[case]
    files = dict(sound)
    change(files, places / "canary")
    hub.write(REPO, sound)
    folder = write_all(places / "adapter", files)
    hub.requests.clear()
    refused(places, folder, match)
    assert case in NEEDS_BASE or not hub.requests


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repository_is_refused(case, sound, hub, base, places):  # noqa: F811
    change, match = HOSTILE[case]
    files = dict(sound)
    change(files, places / "canary")
    hub.write(REPO, files)
    hub.requests.clear()
    refused(places, REPO, match)
    fetched = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert not [path for path in fetched if path.endswith((".bin", ".py"))]


# What only a folder can hold


def as_folder(name):
    def change(folder, _):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def as_link(name, target):
    def change(folder, outside):
        outside.mkdir()
        if (folder / name).exists():
            os.rename(folder / name, outside / name)
        (folder / name).symlink_to(target or outside / name)

    return change


def as_pipe(name):
    def change(folder, _):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def sparse(name, size):
    return lambda folder, _: os.truncate(folder / name, size)


IN_FOLDERS = {
    "configuration is a folder": (as_folder(CONFIG), f"{CONFIG}` cannot be used: it is no file"),
    "tensors are a folder": (as_folder(TENSORS), f"{TENSORS}` cannot be used: it is no file"),
    "tokenizer is a folder": (as_folder("tokenizer.json"), "tokenizer.json` cannot be used: it is no file"),
    "configuration is a pipe": (as_pipe(CONFIG), f"{CONFIG}` cannot be used: it is no file"),
    "configuration is elsewhere": (as_link(CONFIG, None), "it is a link that leads out of the adapter's folder"),
    "tensors are elsewhere": (as_link(TENSORS, None), "it is a link that leads out of the adapter's folder"),
    "card is elsewhere": (as_link("README.md", "/etc/hostname"), "it is a link that leads out"),
    "tokenizer is a device": (as_link("tokenizer.json", "/dev/zero"), "it is a link that leads out"),
    "card leads to itself": (as_link("README.md", "README.md"), "README.md` cannot be used: it is a link that leads"),
    "vocabulary leads nowhere": (as_link("vocab.txt", "nowhere"), "vocab.txt` cannot be used: it is no file"),
    "huge configuration": (sparse(CONFIG, 129_000_000), "129,000,000 bytes, more than the 128,000,000 allowed"),
    "huge tokenizer": (sparse("tokenizer.json", 101_000_000), "101,000,000 bytes, more than the 100,000,000 allowed"),
    "tensors with a hole": (sparse(TENSORS, 10**12), f"{TENSORS}` cannot be used"),
}


@pytest.mark.parametrize("case", IN_FOLDERS)
def test_what_is_no_plain_file_of_the_folder_is_refused(case, sound, places):
    change, match = IN_FOLDERS[case]
    folder = write_all(places / "adapter", sound)
    change(folder, places / "outside")
    refused(places, folder, match)


# What is there, and is left alone


HARMLESS = {
    "pickle beside": pickled("adapter_model.bin", "training_args.bin", "pytorch_model.bin", alone=False),
    "names that lead out": lambda files, _: files.update(
        {"../../evil": b"x", "../canary/kept": b"x", "/etc/evil": b"x"}
    ),
    "code beside": lambda files, _: files.update({"modeling_evil.py": b"raise SystemExit", "handler.py": b"1/0"}),
    "adapter below": lambda files, _: files.update({f"below/{CONFIG}": b"[", f"below/{TENSORS}": b""}),
    "task name that is a path": task(name="../../canary/kept", group="../../canary/kept"),
    "class of a tokenizer": content(TOKENIZER, b'{"tokenizer_class": "os.system"}'),
    "template that asks for attributes": content("chat_template.jinja", b"{{ ''.__class__.__mro__ }}"),
    "pattern of exclusion without end": config(exclude_modules="(([a-z.0-9]+)+)+!"),
    "matrix that is none": content("accuracy_matrix.json", b"["),
}


@pytest.mark.parametrize("where", ["folder", "hub"])
@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_not_needed_is_left_alone(case, where, sound, hub, base, places, tokenizer):  # noqa: F811
    files = dict(sound)
    HARMLESS[case](files, places / "canary")
    hub.write(REPO, files)
    if where == "folder":
        write_all(places / "adapter", {name: data for name, data in files.items() if name[0] not in "./"})
    hub.requests.clear()
    before = listing(places)
    model, its_tokenizer = load_adapter(places / "adapter" if where == "folder" else REPO)
    predict(model, encode(tokenizer))
    if "chat_template.jinja" in files:
        with pytest.raises(SecurityError):
            its_tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert listing(places) == before
    fetched = {path.rpartition("/")[2] for method, path in hub.requests if method == "GET" and REPO in path}
    assert not fetched & {"evil", "kept", "adapter_model.bin", "training_args.bin", "modeling_evil.py", "handler.py"}


# PEFT's own way in. It reads the configuration before it asks the method, and what it says of broken JSON is its own;
# what follows is refused by the method.


PEFT = (
    *("10^11 members", "2·10^9 members", "negative members", "float members", "boolean members", "width of no head"),
    *("no rank", "huge rank", "other rank", "other hidden size", "NaN as score", "overflowing score", "labels twice"),
    *("NaN in a tensor", "unknown kind", "template with attributes", "list of lists as targets", "text as alpha"),
    *("text as a switch", "huge scale", "huge length", "empty label", "half a character"),
    *("newer format", "field of elsewhere", "pickle alone", "pickle as safetensors", "no tensors", "empty tensors"),
    *("tensors cut off", "header of 2^63 bytes", "deep header", "tensor twice", "offsets that overlap", "huge shape"),
    *("half precision", "missing tensor", "surplus tensor", "more members than stated", "other dimensions"),
)


@pytest.mark.parametrize("case", PEFT)
def test_the_way_of_peft_refuses_it_too(case, sound, hub, base, places):  # noqa: F811
    files = dict(sound)
    HOSTILE[case][0](files, places / "canary")
    hub.write(REPO, files)
    before = listing(places)
    with pytest.raises(ValueError) as caught:
        AutoPeftModelForFeatureExtraction.from_pretrained(REPO, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    assert listing(places) == before


@pytest.mark.parametrize("case", ["auto_mapping", "auto_map", "code with the tokenizer", "tokenizer of a path"])
def test_the_way_of_peft_runs_no_code(case, sound, hub, base, places, tokenizer):  # noqa: F811
    files = {**sound, "evil.py": b"open('ran', 'w')"}
    HOSTILE[case][0](files, places / "canary")
    hub.write(REPO, files)
    before = listing(places)
    predict(AutoPeftModelForFeatureExtraction.from_pretrained(REPO, dtype=torch.float32), encode(tokenizer))
    assert listing(places) == before
