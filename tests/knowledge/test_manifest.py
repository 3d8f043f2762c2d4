import json
from dataclasses import replace

import pytest

from hf_lifelong.knowledge import FORMAT, KnowledgeBase, LearnedTask, ManifestError, Tail, TaskData
from hf_lifelong.knowledge.constants import UNSTATED

FILMS = TaskData("films", "ada/films", "short", 2000, "cc-by-4.0", "test")


def task(name, group=None, members=2, labels=("a", "b"), **fields):
    return LearnedTask(name, "text-classification", labels, len(labels), members, group or name, 10, **fields)


@pytest.fixture
def three():
    base = {"model_type": "bert", "hidden_size": 8, "layers": 4, "fingerprint": "abc", "dtype": "float32"}
    tasks = [
        task("one", data=FILMS),
        task("two", members=3, labels=("x", "y", "z"), score=0.5, tail=Tail(4.5, 2)),
        task("one more", "one"),
    ]
    return KnowledgeBase(base, 2, [0, 1, 2], tasks, {"any": [1]})


def test_round_trip_through_json(three):
    text = json.dumps(three.to_dict(), allow_nan=False)
    assert KnowledgeBase.from_dict(json.loads(text)) == three
    assert [task.data for task in KnowledgeBase.from_dict(json.loads(text)).tasks] == [FILMS, TaskData(), TaskData()]
    assert json.dumps(KnowledgeBase.from_dict(json.loads(text)).to_dict()) == text


def test_offsets_and_groups(three):
    assert three.names == ["one", "two", "one more"] and three.groups == ["one", "two"]
    assert three.member_offsets == [0, 2, 5, 7]
    assert three.head_offsets == [0, 2, 4, 7, 10, 13, 15, 17]
    assert three.group_of_task == [0, 1, 0]
    assert three.newest == [2, 1]
    assert three.group_index("one more") == three.group_index("one") == three.group_index(0) == 0
    for unknown in ("nothing", 2, -1):
        with pytest.raises(KeyError, match=r"'one', 'two', 'one more'|has 2 groups"):
            three.group_index(unknown)


def test_a_task_is_known_once(three):
    with pytest.raises(ManifestError, match="`two` is in the knowledge base already"):
        three.with_task(task("two"))
    assert three.with_task(task("three")).names[-1] == "three" and len(three.tasks) == 3


def test_without_a_task(three):
    rest = three.without("one")
    assert rest.names == ["two", "one more"] and rest.groups == ["two", "one more"]
    assert rest.scores is None and three.scores is not None
    assert three.without("two").tasks == [three.tasks[0], three.tasks[2]]


def test_forgetting_a_task_drops_what_is_known_of_its_data(three):
    assert "ada/films" in json.dumps(three.to_dict())
    assert "ada/films" not in json.dumps(three.without("one").to_dict())


def test_what_is_known_of_the_data_does_not_make_another_task():
    assert task("one", data=FILMS) == task("one") != task("one", members=3)


def test_parts_that_tasks_were_scored_on_are_noted(three):
    noted = three.with_scored_on({"one": "validation", "two": "test", "unknown": "test"})
    assert [task.data.scored_on for task in noted.tasks] == ["validation", "test", None]
    assert noted.tasks[0].data.rows == 2000 and three.tasks[0].data == FILMS


def test_manifests_from_before_data_was_noted_are_read(three):
    data = three.to_dict()
    for learned in data["tasks"]:
        del learned["data"], learned["constants"], learned["baseline"]
    del data["constants"]
    data["format"] = 2
    found = KnowledgeBase.from_dict(data)
    assert found == replace(three, constants=UNSTATED) and {task.data for task in found.tasks} == {TaskData()}


def test_how_states_are_pooled_is_stated_where_it_is_not_as_it_always_was(three):
    assert "pooling" not in three.to_dict() and three.pooled_width(8) == 8 * (len(three.depths) + 1)
    last = replace(three, pooling="last")
    assert KnowledgeBase.from_dict(last.to_dict()) == last and last.pooled_width(8) == 8 * len(three.depths)


def test_how_many_inputs_each_class_has_is_kept(three):
    assert three.class_counts is None and "class_examples" not in three.to_dict()["tasks"][0]
    knowledge = KnowledgeBase(**{**vars(three), "tasks": [task("a", classes=3, class_examples=(2, 0, 7)), task("b")]})
    assert KnowledgeBase.from_dict(knowledge.to_dict()) == knowledge and knowledge.class_counts is None
    knowledge.tasks[1] = task("b", class_examples=(5,))
    assert knowledge.class_counts == [2, 7, 7, 5]  # a class without inputs shares those of the most frequent
    for wrong in (3, [1, 2], [1, 2, 3, 4], [1, -1, 2], [1, 2.0, 3]):
        data = knowledge.to_dict()
        data["tasks"][0]["class_examples"] = wrong
        with pytest.raises(ManifestError, match=r"tasks\[0\].class_examples` must|class_examples` has"):
            KnowledgeBase.from_dict(data)


def test_constants_of_a_task_are_kept(three):
    knowledge = three.with_task(task("grades", constants={"mean": 2.5, "std": 1.0}))
    assert KnowledgeBase.from_dict(knowledge.to_dict()) == knowledge
    for wrong in ([1.0], {"mean": "2"}, {"mean": True}, {"mean": float("nan")}, {"mean": 10**400}, {"m" * 999: 1.0}):
        data = knowledge.to_dict()
        data["tasks"][3]["constants"] = wrong
        with pytest.raises(ManifestError, match=r"tasks\[3\].constants` must be "):
            KnowledgeBase.from_dict(data)
    data["tasks"][3]["constants"] = {str(i): 0.0 for i in range(1000)}
    with pytest.raises(ManifestError, match=r"tasks\[3\].constants` has 1000 entries, more than 100"):
        KnowledgeBase.from_dict(data)


def test_older_manifests_have_a_field_for_tasks_that_may_give_no_answer(three):
    data = three.with_task(task("open", constants={"unanswered": 1.0})).to_dict()
    for learned in data["tasks"]:
        learned["unanswered"] = bool(learned.pop("constants"))
    found = KnowledgeBase.from_dict(data)
    assert [dict(learned.constants) for learned in found.tasks] == [{}, {}, {}, {"unanswered": 1.0}]
    data["tasks"][3]["unanswered"] = "no"
    with pytest.raises(ManifestError, match=r"tasks\[3\].unanswered` must be a bool, not str"):
        KnowledgeBase.from_dict(data)


def put(path, value):
    def change(data):
        *way, last = path
        for step in way:
            data = data[step]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(["format"], FORMAT + 1), r"`knowledge.format` is 7, this package reads up to 6; upgrade"),
        (put(["format"], 1), r"`knowledge.format` is 1, whose signatures .* reads 2 to 6: learn the tasks again"),
        (put(["tasks", 1, "tail", "excess"], 0.5), r"`knowledge.tasks\[1\].tail.excess` must be a number from 1 to"),
        (put(["tasks", 1, "tail"], [1, 2]), r"`knowledge.tasks\[1\].tail` must be a dict, not list"),
        (put(["format"], "1"), "`knowledge.format` must be a positive integer, not '1'"),
        (put(["format"], True), "`knowledge.format` must be a positive integer, not True"),
        (put(["base"], []), "`knowledge.base` must be a dict, not list"),
        (put(["trunk"], -1), "`knowledge.trunk` must be an integer from 0"),
        (put(["depths"], [0, 3]), "`knowledge.depths` must be an integer from 0 to 2, not 3"),
        (put(["depths"], [1, 1]), "`knowledge.depths` must rise"),
        (put(["pooling"], "first"), r"`knowledge.pooling` must be one of \['mean-and-peak', 'last'\], not 'first'"),
        (put(["depths"], []), "`knowledge.depths` must name"),
        (put(["depths"], None), "`knowledge.depths` must be a list, not NoneType"),
        (put(["tasks"], {}), "`knowledge.tasks` must be a list, not dict"),
        (put(["scores"], []), "`knowledge.scores` must be a dict, not list"),
        (put(["tasks", 0], None), r"`knowledge.tasks\[0\]` must be a dict, not NoneType"),
        (put(["tasks", 0, "name"], 3), r"`knowledge.tasks\[0\].name` must be a str, not int"),
        (put(["tasks", 0, "labels"], "ab"), r"`knowledge.tasks\[0\].labels` must be a list, not str"),
        (put(["tasks", 0, "labels"], ["a", 1]), r"`knowledge.tasks\[0\].labels` must be a str, not int"),
        (put(["tasks", 0, "members"], 0), r"`knowledge.tasks\[0\].members` must be an integer from 1"),
        (put(["tasks", 0, "members"], 2.0), r"`knowledge.tasks\[0\].members` must be an integer from 1"),
        (put(["tasks", 0, "width"], 5), r"`knowledge.tasks\[0\].width` is 5, but there are 2 labels"),
        (put(["tasks", 0, "score"], float("nan")), r"tasks\[0\].score` must be a share in"),
        (put(["tasks", 0, "score"], "high"), r"tasks\[0\].score` must be a share in"),
        (put(["tasks", 0, "started_from"], 1), r"tasks\[0\].started_from` must be a str"),
        (put(["tasks", 0, "data"], None), r"`knowledge.tasks\[0\].data` must be a dict, not NoneType"),
        (put(["tasks", 0, "data"], {}), r"`knowledge.tasks\[0\].data` lacks \['config', 'hub_id', 'license'"),
        (put(["tasks", 0, "data", "colour"], 1), r"tasks\[0\].data` lacks \[\] and has unknown fields \['colour'\]"),
        (put(["tasks", 0, "data", "name"], 3), r"`knowledge.tasks\[0\].data.name` must be a str, not int"),
        (put(["tasks", 0, "data", "license"], ["mit"]), r"tasks\[0\].data.license` must be a str, not list"),
        (
            put(["tasks", 0, "data", "hub_id"], "x" * 201),
            "data.hub_id` has 201 characters, more than 200",
        ),
        (put(["tasks", 0, "data", "rows"], -1), r"`knowledge.tasks\[0\].data.rows` must be an integer from 0"),
        (put(["tasks", 0, "data", "rows"], True), r"`knowledge.tasks\[0\].data.rows` must be an integer from 0"),
        (
            put(["tasks", 0, "data", "scored_on"], "train"),
            'data.scored_on` must be "test" or "validation", not \'train\'',
        ),
        (put(["tasks", 0, "data", "scored_on"], []), r"data.scored_on` must be .*, not \[\]"),
        (put(["tasks", 0, "surprise"], 1), r"`knowledge.tasks\[0\]` lacks \[\] and has unknown fields \['surprise'\]"),
        (put(["tasks", 2, "name"], "one"), r"`knowledge.tasks\[2\].name`: `one` stands twice"),
        (put(["tasks", 1, "group"], "one more"), r"`knowledge.tasks\[1\].group`: `one more` is no earlier task"),
        (put(["tasks", 2, "group"], "two"), r"`knowledge.tasks\[2\].labels` differs from that of its group `two`"),
        (put(["tasks", 2, "kind"], "question-answering"), r"`knowledge.tasks\[2\].kind` differs"),
    ],
)
def test_a_damaged_manifest_is_refused(three, change, message):
    data = three.to_dict()
    change(data)
    with pytest.raises(ManifestError, match=message):
        KnowledgeBase.from_dict(data)


def test_a_group_must_be_named_after_its_opener(three):
    data = three.without("two").with_task(task("third", "one")).to_dict()
    data["tasks"][2]["group"] = "one more"
    with pytest.raises(ManifestError, match="`one more` opened no group"):
        KnowledgeBase.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_anything_but_an_object_is_refused(data):
    with pytest.raises(ManifestError, match="`knowledge` must be an object"):
        KnowledgeBase.from_dict(data)


def test_a_huge_claim_costs_nothing(three):
    data = three.to_dict()
    data["tasks"][0]["members"] = 10**9
    assert KnowledgeBase.from_dict(data).tasks[0].members == 10**9
