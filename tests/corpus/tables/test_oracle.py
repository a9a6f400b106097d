"""Random tables in every written form give the labels that a loop over Python's own lists gives."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings, strategies as st

from scaleprior.corpus.importers.tables import LabelTable, TableOptions

names = st.text(st.characters(categories=["L", "N"], include_characters="'.-_é"), min_size=1, max_size=6).filter(
    lambda name: not name.replace(".", "").replace("-", "").isdigit() and name.strip() == name
)
Tables = dict[str, list[str]]
tables = st.dictionaries(
    st.integers(0, 99).map(lambda k: f"folder {k % 3}/{k}.jpg"),
    st.lists(names.filter(lambda name: name.lower() not in {"nan", "na", "none", "null", "nat"}), max_size=3),
    min_size=1,
    max_size=12,
)  # fmt: skip


def read(path: Path, **options: object) -> Tables:
    table = LabelTable(path, TableOptions(**options))
    return {row.file: sorted(set(row.labels)) for row in table.rows()}


def written(folder: str, rows: list[list[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path = Path(folder) / "t.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    return path


@settings(max_examples=6, deadline=None)
@given(content=tables, data=st.data())
def test_every_form_of_a_table_is_the_same_table(content: Tables, data: st.DataObject) -> None:
    expected = {file: sorted(set(labels)) for file, labels in content.items()}
    delimiter, encoding = data.draw(st.sampled_from([",", ";", "\t"])), data.draw(st.sampled_from(["utf-8", "utf-16"]))
    separator = data.draw(st.sampled_from(["|", "/", ", ", " + "]))
    header, rows = [["file", "label"]], content.items()
    with tempfile.TemporaryDirectory() as folder:
        cells = written(folder, header + [[f, separator.join(ls)] for f, ls in rows], delimiter, encoding)
        assert read(cells, separator=separator) == expected
        long = [[f, label] for f, ls in rows for label in ls or [""]]
        shuffled = data.draw(st.permutations(long))
        assert read(written(folder, header + shuffled, delimiter, encoding), separator="") == expected
        for listed in (str, json.dumps):
            lists = written(folder, header + [[f, listed(ls)] for f, ls in rows], delimiter, encoding)
            assert read(lists) == expected
        pq.write_table(pa.table({"file": list(content), "label": list(content.values())}), f"{folder}/t.parquet")
        assert read(Path(folder) / "t.parquet") == expected
        columns = sorted({label for labels in content.values() for label in labels})
        if len(columns) > 1:
            bits = written(folder, [["a file", *columns], *([f, *(int(c in ls) for c in columns)] for f, ls in rows)])
            assert read(bits, file_column="a file", label_column=columns) == expected
