"""Who trained which steps, over stops, kills and lost steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.training.crews import with_crew
from scaleprior.training.run_folder import RunFolder


def test_steps_that_were_lost_were_made_by_nobody(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {"fingerprint": "x"}, parts="config")
    found = []
    for steps, processes in ((0, 2), (0, 4), (10, 4), (20, 1), (15, 3), (15, 1), (15, 4)):
        joined = with_crew(folder, steps=steps, processes=processes)
        joined.write()
        found.append([(crew["from_step"], crew["processes"]) for crew in joined.identity["trained_by"]])
    assert found == [
        [(0, 2)],
        [(0, 4)],  # killed before the first step was saved
        [(0, 4)],
        [(0, 4), (20, 1)],
        [(0, 4), (15, 3)],  # an older checkpoint
        [(0, 4), (15, 1)],
        [(0, 4)],
    ]
    (tmp_path / "run.json").write_text('{"fingerprint": "x", "trained_by": [1]}')
    with pytest.raises(UserError, match=r"run.json cannot be read: trained_by; the file is damaged"):
        with_crew(folder, steps=1, processes=1)
