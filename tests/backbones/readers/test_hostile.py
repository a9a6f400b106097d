"""Small files that ask for much: each ends in one line for people, or in values, with work in proportion to its bytes.

Work is counted: memory as what Python and NumPy take, time as this process's own on the processor, which a busy machine
does not change.
"""

from __future__ import annotations

import os
import signal
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scaleprior.backbones import read_backbone
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.readers import Limits
from scaleprior.backbones.readers.sources.detectors import detector_facts
from scaleprior.backbones.weights import has_card, load_canonical, read_card
from scaleprior.errors import UserError
from tests.backbones.readers.hostile import FILES, write
from tests.backbones.readers.hostile.oracle import ended

REPEATED = 1000
SECONDS = 10  # of the processor; with memory counted, most take a tenth of one
LIMITS = Limits(keys=1000)
MEMORY = 8 << 20, 256  # bytes: whatever the file, and for each byte of it; an empty set takes 216 for its one

# A file that is absent from these is read, or holds no trunk.
REASONS = {
    "size": """
        size_copied.pth set_copied.pkl pairs_copied.pkl encoded.pkl star.pth rebuilt.pth keywords.pkl turned_anew.pkl
        modules.pth laughs.pkl several.pth rendered_mean.pkl deep.pkl wide_modules.pth digits_put.pkl
        circle.pkl length.safetensors overlap.safetensors same_span.safetensors many.safetensors shards.index.json
        many.index.json members.npz extras.npz same_bytes.npz beyond.npz bomb.npz""",
    "damaged": """
        pairs_shared.pkl named.pkl stored.pth shape.pth digits.pkl popped.pkl keys.pth negative_length.safetensors
        dtype.safetensors dtype_object.safetensors digits.safetensors large_side.safetensors large_offset.safetensors
        sides.safetensors wrong_size.safetensors deep.safetensors deep_objects.safetensors nested_type.safetensors
        nested_entry.safetensors metadata_list.safetensors metadata_nested.safetensors not_utf8.safetensors
        infinite.safetensors itself.index.json number.index.json list.index.json pipe.index.json deep.index.json
        nothing.index.json digits.index.json not_utf8.index.json
        same_place.npz behind.npz zip64.npz zip64_members.npz null.npz
        short_extra.npz zip64_extra.npz digits.npz large.npz float.npz text.npz kinds.npz deep.npz long_header.npz
        header_length.npz packed_header_length.npz keys.npz sides.npz""",
    "duplicate": "repeated.safetensors repeated_within.safetensors repeated.index.json twice.npz",
    "path": """
        surrogate.safetensors escape.index.json absolute.index.json null.index.json dot.index.json long.index.json""",
    "code": "deep_kind.npz no_kind.npz wide_kind.npz",
}
REASON = {name: reason for reason, names in REASONS.items() for name in names.split()}


class TooMuchWorkError(BaseException):
    """Beyond what any file may cost; no reader catches it."""


def _too_much(*_: Any) -> None:
    raise TooMuchWorkError


@contextmanager
def work_of(size: int) -> Iterator[None]:
    """Bound what is done meanwhile by the bytes of a file."""
    before = signal.signal(signal.SIGVTALRM, _too_much)
    tracemalloc.start(1)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY[0] + MEMORY[1] * size
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        tracemalloc.stop()


@pytest.mark.parametrize("name", FILES)
def test_each_ends_in_a_line_or_in_values_with_work_in_proportion(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, REPEATED)
    with work_of(path.stat().st_size):
        said = ended(path, limits=LIMITS)
    reason = REASON.get(name)
    assert (f"[refused: {reason}]" in said) if reason else "[refused" not in said


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("/dev/zero")
    kinds = {
        tmp_path / "pipe": "a pipe",
        tmp_path / "socket": "a socket",
        tmp_path / "link": "a device",
        Path("/dev/zero"): "a device",
        Path("/dev/null"): "a device",
    }
    for path, kind in kinds.items():
        for read in (read_backbone, read_card, load_canonical, canonical_file):
            with pytest.raises(UserError, match=f"weights {path} is {kind}; give a file"):
                read(path)
        assert not has_card(path)


def test_a_pipe_in_a_models_folder_is_no_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="no weights in the folder"):
        read_backbone(tmp_path)


@pytest.mark.parametrize(
    "header",
    ["[", "[]", "{}", "1", '{"config": []}', "[" * 100_000, f'{{"config": {"9" * 5000}}}',
     '{"config": {"MODEL.PIXEL_MEAN": ["a", 1, 2]}}', '{"config": {"MODEL.NORM_EPS": [], "MODEL.PIXEL_MEAN": []}}'],
    ids=lambda header: header[:40],
)  # fmt: skip
def test_a_detectors_header_that_is_none_is_refused(header: str) -> None:
    with pytest.raises(UserError, match=r"a\.safetensors: the detector's header") as error:
        detector_facts({"scaleprior.detector": header}, "a.safetensors")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500
