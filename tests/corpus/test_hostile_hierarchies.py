"""Hierarchies that were made to cost: time and memory stay linear in the file, and what is wrong is one short line."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path

import pytest

from scaleprior.corpus import LabelSpace, closure
from scaleprior.corpus.hierarchy_files import read_descriptions
from scaleprior.errors import UserError


def refused(tmp_path: Path, content: object, name: str = "h.json") -> str:
    """What is said of a hierarchy with this content."""
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as caught:
        LabelSpace.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert len(text) < 700 + len(str(path))
    assert "\n" not in text
    return text


def chain(length: int) -> dict[str, object]:
    return {"nodes": {str(k): {"parents": [str(k - 1)] if k else []} for k in range(length)}}


def complete(nodes: int) -> dict[str, object]:
    """Every node has all before it as parents."""
    return {"nodes": {str(k): {"parents": [str(j) for j in range(k)]} for k in range(nodes)}}


def test_deep_chains_are_refused_before_they_take_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(closure, "_MOST", 1000 * 999 // 2)
    assert len(LabelSpace.from_dict(chain(1000)).ancestors(999)) == 999
    assert "the 1,001 nodes have more than 499,500 ancestors in all" in refused(tmp_path, chain(1001))


def test_a_complete_graph_costs_what_its_closure_has(monkeypatch):
    """Of 300 parents 299 are above another parent: they are looked at, and not gathered again."""
    monkeypatch.setattr(closure, "_MOST", 300 * 299 // 2)
    space = LabelSpace.from_dict(complete(300))
    assert space.ancestors(299).tolist() == list(range(299))


def test_layers_without_short_cuts_are_refused(tmp_path, monkeypatch):
    """Here no parent is above another, and each brings all the layers above it."""
    monkeypatch.setattr(closure, "_MOST", 100_000)
    layers = {f"{a}.{k}": {"parents": [f"{a - 1}.{j}" for j in range(30) if a]} for a in range(12) for k in range(30)}
    assert "more than 100,000 ancestors" in refused(tmp_path, {"nodes": layers})


def test_a_long_cycle_is_found_in_one_walk_and_named_in_part(tmp_path):
    nodes = {str(k): {"parents": [str((k + 1) % 30_000)]} for k in range(30_000)}
    assert "0 -> 1 -> 2 -> 3 -> 4 -> 5 -> 6 -> (29,992 more) -> 29999 -> 0 (each" in refused(tmp_path, {"nodes": nodes})


def test_many_repeated_keys_are_counted_once(tmp_path):
    """Counting each key anew took a minute for this file."""
    text = '{"nodes": {' + ",".join(f'"a{k // 2}": {{}}' for k in range(100_000)) + "}}"
    assert "duplicate id 'a0', 'a1', 'a10', 'a100', 'a1000'" in refused(tmp_path, text)


def test_a_label_with_many_parents_in_open_images_form(tmp_path):
    below = [{"LabelName": f"p{k}", "Subcategory": [{"LabelName": "c"}]} for k in range(30_000)]
    (tmp_path / "h.json").write_text(json.dumps({"LabelName": "top", "Subcategory": below}))
    space = LabelSpace.load(tmp_path / "h.json")
    assert len(space.parents[space.index("c")]) == 30_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"nodes":' * 100_000, "nested too deeply"),
        ('{"nodes": ' + "9" * 5000 + "}", "cannot be read"),
        ({"nodes": {"a": {"name": [[[1]]]}}}, "node 'a' is {'name': [[[1]]]}"),
        ({"nodes": {"a": {"name": "x" * 10_000_000, "parents": 3}}}, "node 'a' is"),
        ({"nodes": {"a": {"parents": [["a"]]}}}, "node 'a' is"),
        ({"nodes": {"\ud800": {}}}, "node '\\ud800' is"),
        ({"nodes": {"a": {}}, "leaves": 3}, '"leaves" is 3'),
        ({"nodes": {"a": {}}, "leaves": "a"}, "\"leaves\" is 'a'"),
        ({"nodes": {"a": {}}, "leaves": {"a": 1}}, '"leaves" is {'),
        ({"nodes": {"a": {}}, "leaves": [["a"]]}, '"leaves" is [['),
        ({"nodes": {"a": {}}, "leaves": ["x" * 1_000_000]}, "leaf 'xxx"),
        ({"nodes": {"a": {"parents": ["x" * 1_000_000]}}}, "node 'a' has the unknown parent 'xxx"),
        ({"LabelName": 1}, 'has no "LabelName"'),
        ({"LabelName": "a", "Subcategory": 3}, "Subcategory of 'a' is 3"),
        ({"LabelName": "a", "Subcategory": None}, "Subcategory of 'a' is None"),
        ({"LabelName": "a", "Part": "xyz"}, "Part of 'a' is 'xyz'"),
        ({"LabelName": "a", "Part": [[]]}, 'has no "LabelName"'),
        ([], 'has no object "nodes"'),
        (None, 'has no object "nodes"'),
    ],
)
def test_wrong_types_are_one_line(tmp_path, content, said):
    assert said in refused(tmp_path, content)


def test_a_giant_line_of_a_list_is_shown_in_part(tmp_path):
    assert "(5,000,000 characters) is not PARENT CHILD" in refused(tmp_path, "x" * 5_000_000, "is_a.txt")


def test_a_number_may_be_a_name():
    assert LabelSpace.from_dict({"nodes": {"a": {"name": 7}}}).names == ("7",)


def test_hierarchies_are_regular_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    os.symlink("loop.json", tmp_path / "loop.json")
    for place, said in (
        ("/dev/zero", "is a device"),
        (tmp_path / "pipe.json", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "loop.json", "symbolic links"),
    ):
        with pytest.raises(UserError, match=said):
            LabelSpace.load(place)
        with pytest.raises(UserError, match=said):
            read_descriptions(place)


def test_a_cell_that_no_csv_reader_takes(tmp_path):
    (tmp_path / "names.csv").write_text("a,b\nc," + "x" * 200_000)
    with pytest.raises(UserError, match=r"names.csv line 2: field larger than field limit"):
        read_descriptions(tmp_path / "names.csv")


def test_a_giant_label_is_not_compared_with_all_others():
    space = LabelSpace.flat(["known", *("x" * 1_000_000 + str(k) for k in range(3))])
    with pytest.raises(UserError, match=r"label 'xxx.*\(1,000,000 characters\) is not in the label space") as caught:
        space.index("x" * 1_000_000)
    assert len(str(caught.value)) < 1000


@pytest.mark.slow
def test_damaged_hierarchies_are_refused_or_read(tmp_path):
    """800 files with bytes changed, cut or put twice: one of the two, and nothing else."""
    forms = {
        "h.json": json.dumps(complete(8)),
        "oi.json": json.dumps({"LabelName": "a", "Subcategory": [{"LabelName": "b", "Part": [{"LabelName": "c"}]}]}),
        "w.txt": "a b\nb c\na d\n",
    }
    draw, path = random.Random(17), tmp_path
    for k in range(800):
        name = list(forms)[k % len(forms)]
        raw = bytearray(forms[name].encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(raw))
            kind = draw.randrange(3)
            if kind == 0:
                raw[at] = draw.choice(b'[]{},:"0-e\\n\xff\x00')
            elif kind == 1:
                del raw[at : at + draw.randint(1, 9)]
            else:
                raw[at:at] = raw[at : at + draw.randint(1, 30)]
            raw = raw or bytearray(b" ")
        (path / name).write_bytes(raw)
        with contextlib.suppress(UserError):
            assert len(LabelSpace.load(path / name)) > 0
