"""Files by patterns, as a shell expands them."""

from __future__ import annotations

import subprocess

import pytest

from scaleprior.corpus.importers.patterns import expand_braces, is_pattern, matching_files
from scaleprior.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "train-{0000..0012}.tar",
        "{8..11}.tar",
        "{08..11}.tar",
        "{3..1}",
        "{a,b,c}-{0..2}.tar",
        "{train,val}/x",
        "plain.tar",
        "{one}.tar",
        "a{}b",
        "{a..c",
        "{,x}y",
    ],
)
def test_braces_are_those_of_bash(text):
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {text}"], capture_output=True, text=True, check=True).stdout
    assert expand_braces(text) == said.splitlines()


def test_files_are_found_once_and_none_is_missed(tmp_path):
    for name in ("a-0.tar", "a-1.tar", "b-0.tar", "odd{1}.tar"):
        (tmp_path / name).write_text("")
    names = [path.name for path in matching_files(f"{tmp_path}/{{b,a}}-*.tar")]
    assert names == ["b-0.tar", "a-0.tar", "a-1.tar"]
    assert [path.name for path in matching_files(f"{tmp_path}/{{a-0,a-0,a-1}}.tar")] == ["a-0.tar", "a-1.tar"]
    with pytest.raises(UserError, match=r"a-2.tar, one of .*a-\{0..2\}.tar, is not there"):
        matching_files(f"{tmp_path}/a-{{0..2}}.tar")
    with pytest.raises(UserError, match=r"no file matches .*c-\*.tar"):
        matching_files(f"{tmp_path}/c-*.tar")
    assert not is_pattern(f"{tmp_path}/odd{{1}}.tar")  # a file that is called so
    assert is_pattern(f"{tmp_path}/a-{{0..1}}.tar")


@pytest.mark.parametrize("text", ["{0..9999999999}", "{0..9999}{0..9999}"])
def test_a_pattern_that_stands_for_too_many_names(text):
    with pytest.raises(UserError, match="names; give a"):
        expand_braces(text)
