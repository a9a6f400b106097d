"""Label spaces against hand-made hierarchies and a slow, independent closure."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from scaleprior.corpus.hierarchy_files import load_open_images, load_wordnet_isa
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError

# thing <- animal <- dog, cat ; thing <- toy ; robodog is a dog and a toy
NODES = {
    "thing": {"name": "thing", "parents": []},
    "animal": {"name": "animal", "parents": ["thing"]},
    "toy": {"name": "toy", "parents": ["thing"]},
    "dog": {"name": "dog", "parents": ["animal"]},
    "cat": {"name": "cat", "parents": ["animal"]},
    "robodog": {"name": "robo dog", "parents": ["dog", "toy"]},
}


@pytest.fixture
def space() -> LabelSpace:
    return LabelSpace.from_dict({"nodes": NODES})


def names(space: LabelSpace, indices: np.ndarray) -> set[str]:
    return {space.ids[i] for i in indices}


def test_ancestors_are_the_closure_without_the_node(space):
    assert names(space, space.ancestors(space.index("robodog"))) == {"dog", "toy", "animal", "thing"}
    assert space.ancestors(space.index("thing")).size == 0


def test_leaves_are_the_nodes_without_children(space):
    assert names(space, space.leaves) == {"cat", "robodog"}


def test_siblings_share_a_parent(space):
    assert names(space, space.siblings(space.index("dog"))) == {"cat"}
    assert names(space, space.siblings(space.index("robodog"))) == set()
    assert names(space, space.siblings(space.index("animal"))) == {"toy"}


def test_expand_by_hand(space):
    index = space.index
    labels = np.array([index("robodog"), index("dog"), index("cat")], dtype=np.int32)
    expanded, offsets = space.expand(labels, np.array([0, 2, 2, 3]))
    assert offsets.tolist() == [0, 5, 5, 8]
    assert names(space, expanded[:5]) == {"robodog", "dog", "toy", "animal", "thing"}
    assert names(space, expanded[5:]) == {"cat", "animal", "thing"}
    assert expanded.dtype == np.int32
    assert offsets.dtype == np.int64


def test_expand_of_nothing(space):
    labels, offsets = space.expand(np.array([], dtype=np.int32), np.array([0]))
    assert labels.size == 0
    assert offsets.tolist() == [0]


@pytest.mark.parametrize("bad", [-1, 6])
def test_expand_refuses_foreign_labels(space, bad):
    with pytest.raises(UserError, match=rf"label {bad} is outside the label space \[0, 6\)"):
        space.expand(np.array([0, bad]), np.array([0, 2]))


@st.composite
def dags(draw: st.DrawFn) -> LabelSpace:
    count = draw(st.integers(1, 25))
    rank = draw(st.permutations(range(count)))  # file order is not topological order
    parents = [draw(st.lists(st.integers(0, k - 1), max_size=3, unique=True)) if k else [] for k in range(count)]
    nodes = [(f"n{k}", f"n{k}", [f"n{p}" for p in parents[k]]) for k in rank]
    return LabelSpace(nodes)


@settings(max_examples=60, deadline=None)
@given(space=dags(), data=st.data())
def test_expand_agrees_with_walking_up(space, data):
    rows = data.draw(st.lists(st.lists(st.integers(0, len(space) - 1), max_size=5), max_size=6))
    labels = np.array([label for row in rows for label in row], dtype=np.int32)
    offsets = np.cumsum([0] + [len(row) for row in rows])
    expanded, new = space.expand(labels, offsets)

    def up(node: int) -> set[int]:
        return {node}.union(*(up(parent) for parent in space.parents[node]))

    for k, row in enumerate(rows):
        assert expanded[new[k] : new[k + 1]].tolist() == sorted(set().union(*(up(label) for label in row)))


def test_round_trip_keeps_the_fingerprint(space, tmp_path):
    space.save(tmp_path / "h.json")
    again = LabelSpace.load(tmp_path / "h.json")
    assert again.fingerprint == space.fingerprint
    assert again.ids == space.ids
    assert again.names[again.index("robodog")] == "robo dog"


def test_fingerprint_sees_names_parents_and_order(space):
    renamed = {**NODES, "dog": {"name": "hound", "parents": ["animal"]}}
    moved = {**NODES, "dog": {"name": "dog", "parents": ["thing"]}}
    turned = dict(reversed(NODES.items()))
    prints = {LabelSpace.from_dict({"nodes": nodes}).fingerprint for nodes in (renamed, moved, turned)}
    assert len(prints | {space.fingerprint}) == 4


def test_cycle_is_named_along_its_path():
    nodes = [("a", "a", ["b"]), ("b", "b", ["c"]), ("c", "c", ["a"]), ("d", "d", ["a"]), ("e", "e", [])]
    with pytest.raises(UserError, match=r"cycle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c) "):
        LabelSpace(nodes)


def test_own_parent_is_a_cycle():
    with pytest.raises(UserError, match="cycle: a -> a"):
        LabelSpace([("a", "a", ["a"])])


def test_unknown_parent_names_both():
    with pytest.raises(UserError, match="node 'dog' has the unknown parent 'animal'"):
        LabelSpace([("dog", "dog", ["animal"])])


def test_duplicate_ids():
    with pytest.raises(UserError, match="duplicate id 'a'"):
        LabelSpace([("a", "a", []), ("b", "b", []), ("a", "a", [])])


def test_duplicate_json_key_is_not_swallowed(tmp_path):
    (tmp_path / "h.json").write_text('{"nodes": {"a": {"parents": []}, "a": {"parents": []}}}')
    with pytest.raises(UserError, match="duplicate id 'a'"):
        LabelSpace.load(tmp_path / "h.json")


def test_unknown_label_names_close_ids(space):
    with pytest.raises(UserError, match=r"label 'robodgo' is not in the label space.*'robodog'"):
        space.index("robodgo")


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        (["cow"], "leaf 'cow' is not a node"),
        (["dog"], "leaf 'dog' has children"),
        (["cat", "cat"], "duplicate leaf 'cat'"),
        ([], "the list of leaves is empty"),
    ],
)
def test_bad_leaves(leaves, message):
    with pytest.raises(UserError, match=message):
        LabelSpace.from_dict({"nodes": NODES, "leaves": leaves})


@pytest.mark.parametrize("text", ["[]", '{"leaves": []}', '{"nodes": {"a": 3}}', '{"nodes": {"a": {"parents": "b"}}}'])
def test_malformed_json_says_the_form(tmp_path, text):
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(UserError, match=r"expected \{") as caught:
        LabelSpace.load(tmp_path / "h.json")
    assert "h.json" in str(caught.value)


def test_not_json_and_missing(tmp_path):
    (tmp_path / "h.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON: line 1"):
        LabelSpace.load(tmp_path / "h.json")
    with pytest.raises(UserError, match="hierarchy file not found"):
        LabelSpace.load(tmp_path / "absent.json")


def test_open_images_merges_repeated_labels(tmp_path):
    tree = {
        "LabelName": "/m/entity",
        "Subcategory": [
            {"LabelName": "/m/toy", "Subcategory": [{"LabelName": "/m/doll"}], "Part": [{"LabelName": "/m/wheel"}]},
            {"LabelName": "/m/person", "Subcategory": [{"LabelName": "/m/doll"}]},
        ],
    }
    (tmp_path / "oi.json").write_text(json.dumps(tree))
    (tmp_path / "names.csv").write_text('/m/doll,"Doll, small"\n/m/toy,Toy\n')
    space = LabelSpace.from_dict(load_open_images(tmp_path / "oi.json", tmp_path / "names.csv"))
    doll = space.index("/m/doll")
    assert {space.ids[p] for p in space.parents[doll]} == {"/m/toy", "/m/person"}
    assert space.names[doll] == "Doll, small"
    assert space.parents[space.index("/m/wheel")] == ()
    assert LabelSpace.load(tmp_path / "oi.json").ids == space.ids


def test_wordnet_list(tmp_path):
    (tmp_path / "is_a.txt").write_text("n1 n2\nn1 n3\nn2 n4\nn3 n4\n")
    (tmp_path / "words.txt").write_text("n4\tpoodle, poodle dog\n")
    space = LabelSpace.from_dict(load_wordnet_isa(tmp_path / "is_a.txt", tmp_path / "words.txt"))
    assert names(space, space.ancestors(space.index("n4"))) == {"n1", "n2", "n3"}
    assert space.names[space.index("n4")] == "poodle, poodle dog"
    (tmp_path / "is_a.txt").write_text("n1 n2\nn1\n")
    with pytest.raises(UserError, match="line 2: 'n1' is not PARENT CHILD"):
        LabelSpace.load(tmp_path / "is_a.txt")


def test_real_hierarchy_agrees_with_its_readme(shared_data):
    space = LabelSpace.load(shared_data / "tinyimagenet" / "hierarchy.json")
    counts = [len(space.ancestors(leaf)) for leaf in space.leaves]
    # figures of the data's README
    assert (len(space), len(space.leaves), sum(map(len, space.parents))) == (543, 200, 566)
    assert (min(counts), max(counts), round(sum(counts) / 200, 3)) == (4, 18, 10.715)


def csr(*rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for row in rows for label in row], dtype=np.int64), np.cumsum([0, *map(len, rows)])


def sets(labels: np.ndarray, offsets: np.ndarray) -> list[set[int]]:
    return [set(labels[start:stop].tolist()) for start, stop in itertools.pairwise(offsets)]


def test_absence_goes_down_and_presence_up_by_hand():
    # animal > (dog > puppy, cat), car
    space = LabelSpace(
        [("animal", "", []), ("dog", "", ["animal"]), ("puppy", "", ["dog"]), ("cat", "", ["animal"]), ("car", "", [])]
    )
    animal, dog, puppy, cat, car = range(5)
    # no animal, so neither dog, puppy nor cat; no dog beside a cat; nothing known
    assert sets(*space.expand_absent(*csr([animal], [dog], []))) == [{animal, dog, puppy, cat}, {dog, puppy}, set()]
    # a puppy contradicts "no animal" and "no dog", not "no cat" and "no car"; a dog does not contradict "no puppy"
    absent = csr([animal, dog, cat, car], [puppy], [animal])
    settled = space.settle_absent(*csr([puppy], [dog], []), *absent)
    assert sets(*settled) == [{cat, car}, {puppy}, {animal}]
    with pytest.raises(UserError, match=r"label 5 is outside the label space \[0, 5\)"):
        space.settle_absent(*csr([0]), *csr([5]))


@settings(max_examples=60, deadline=None)
@given(space=dags(), data=st.data())
def test_settled_absences_never_meet_what_is_present(space, data):
    rows = data.draw(st.lists(st.tuples(*[st.sets(st.integers(0, len(space) - 1))] * 2), max_size=5))
    present, absent = (csr(*(sorted(row[side]) for row in rows)) for side in (0, 1))
    up = [{int(a) for n in row for a in (n, *space.ancestors(n))} for row, _ in rows]  # the slow way, walking up
    settled = sets(*space.settle_absent(*present, *absent))
    assert settled == [row[1] - above for row, above in zip(rows, up)]
    down = sets(*space.expand_absent(*space.settle_absent(*present, *absent)))
    for kept, below, above in zip(settled, down, up):
        assert below == {n for n in range(len(space)) if kept & {n, *space.ancestors(n).tolist()}}
        assert not below & above
