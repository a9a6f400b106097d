"""The columns of an index, and what rows of one never are."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["ABSENT", "CHECKSUM", "COLUMNS", "INDEX_SCHEMA", "check_columns", "sound_rows"]

INDEX_SCHEMA: pa.Schema = pa.schema(
    [
        ("key", pa.string()),
        ("hash", pa.uint64()),
        ("labels", pa.list_(pa.int32())),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
ABSENT: pa.Field = pa.field("absent", pa.list_(pa.int32()))
"""A column of an index that has such labels."""
CHECKSUM: pa.Field = pa.field("crc32", pa.uint32())
"""The last column, of an index all of whose images were read."""

_ALL = INDEX_SCHEMA.append(ABSENT).append(CHECKSUM)
COLUMNS: tuple[str, ...] = tuple(_ALL.names)


def check_columns(schema: pa.Schema) -> None:
    """Hold a file's columns against an index'.

    Raises:
        ValueError: one is not there, is there twice, or of another type.
    """
    for field in _ALL:
        places = schema.get_all_field_indices(field.name)
        if not places and field.name in INDEX_SCHEMA.names:
            raise ValueError(f"it has no column {field.name}")
        if len(places) > 1:
            raise ValueError(f"it has {len(places)} columns {field.name}")
        if places and _stored(schema.field(places[0]).type) != _stored(field.type):
            raise ValueError(f"its column {field.name} is {schema.field(places[0]).type}, not {field.type}")


def sound_rows(table: pa.Table, *, nodes: int) -> pa.Table:
    """``table``, if its texts are UTF-8, each of its values is there, and each label in [0, ``nodes``).

    Raises:
        ValueError: otherwise; names the column.
    """
    table.validate(full=True)
    for name in table.column_names:
        column = table.column(name)
        values = column.combine_chunks().flatten() if pa.types.is_list(column.type) else column
        if column.null_count or values.null_count:
            raise ValueError(f"column {name} lacks values")
        if values is not column and len(values):
            numbers = values.to_numpy()
            if numbers.min() < 0 or numbers.max() >= nodes:
                raise ValueError(f"column {name} has labels outside [0, {nodes})")
    return table


def _stored(kind: pa.DataType) -> pa.DataType:
    """What is stored of a type: dictionaries are a way to read a column, and a list's items have any name."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind
