"""``scaleprior corpus`` as a user runs it: real processes, real files, kills and full disks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scaleprior.corpus import Corpus, decode, hash64
from tests import processes
from tests.corpus.pictures import class_folders, jpeg, write_tar

REPO = Path(__file__).resolve().parents[2]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "scaleprior", *map(str, args)]


@pytest.fixture
def src(tmp_path) -> Path:
    return class_folders(tmp_path / "src", {"cat": 6, "dog": 4})


def test_build_info_fraction(cli, src, tmp_path):
    built = cli("corpus", "build", "src", "idx", "--name", "pets", "--json")
    assert (built.returncode, built.stderr) == (0, "")
    facts = json.loads(built.stdout)
    assert (facts["name"], facts["images"], facts["leaves"], facts["source"]) == ("pets", 10, 2, "folders")
    info = cli("corpus", "info", "idx")
    assert facts["fingerprint"] in info.stdout
    cut = cli("corpus", "fraction", "idx", "--ratio", "0.3", "--out", "f.parquet", "--json")
    assert json.loads(cut.stdout)["images"] == 3
    assert (
        Corpus.open(tmp_path / "f.parquet").fraction(images=3).keys()
        == Corpus.open(tmp_path / "idx").fraction(images=3).keys()
    )


def test_verify_reads_everything_and_says_what_is_wrong(cli, src, tmp_path):
    cli("corpus", "build", "src", "idx")
    sound = cli("corpus", "verify", "idx")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "nothing that would stop a run was found" in sound.stdout
    image = src / "cat" / "0.jpg"
    image.write_bytes(image.read_bytes()[:-30] + b"\0" * 30)
    damaged = cli("corpus", "verify", "idx", "--json")
    assert damaged.returncode == 2
    report = json.loads(damaged.stdout)
    assert [finding["kind"] for finding in report["findings"]] == ["image_changed"]
    assert "cat/0.jpg" in report["findings"][0]["examples"][0]


def test_every_mistake_is_one_line_and_code_2(cli, src, tmp_path):
    (tmp_path / "empty").mkdir()
    cli("corpus", "build", "src", "idx")
    cases = [
        (("build", "absent", "o"), "source folder not found: absent"),
        (("build", "empty", "o"), "source folder empty is empty"),
        (("build", "src", "idx"), "already holds an index"),
        (("build", "src", "o", "--hierarchy", "h.json"), "hierarchy file not found: h.json"),
        (("build", "src", "o", "--max-skipped", "2"), "--max-skipped is 2.0"),
        (("info", "o"), "no corpus index at o"),
        (("fraction", "idx", "--images", "11"), "11 images does not fit corpus 'idx' of 10 images"),
        (("fraction", "idx", "--ratio", "0"), "ratio 0.0"),
    ]
    for arguments, message in cases:
        result = cli("corpus", *arguments)
        assert result.returncode == 2, result
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("scaleprior: error: ")
        assert message in result.stderr
        assert result.stdout == ""
    assert not (tmp_path / "o").exists()


def test_a_table_is_asked_about_and_read_as_it_is_meant(cli, tmp_path):
    src = class_folders(tmp_path / "src", {"images": 3})
    (src / "labels.csv").write_text("id_code,finding\n0,Cyst|Scar\n1,None\n2,Scar\n")
    asked = cli("corpus", "build", "src", "idx")
    assert asked.returncode == 2
    assert asked.stderr.count("\n") == 1
    assert "hold '|', such as 'Cyst|Scar'" in asked.stderr
    assert "give --separator '|' to split them, --separator '' to keep them" in asked.stderr
    assert "--missing 'None'" in asked.stderr
    built = cli(
        "corpus", "build", "src", "idx", "--separator", "|", "--missing", "None", "--missing", "unknown", "--json"
    )
    assert (built.returncode, built.stderr) == (0, "")
    facts = json.loads(built.stdout)
    assert dict(facts["most_frequent"]) == {"Scar": 2, "Cyst": 1}
    assert facts["images_without_labels"] == 1
    assert facts["warnings"]["names without their image's suffix (matched)"]["count"] == 3


def test_label_columns_may_be_given_in_any_way(cli, tmp_path):
    src = class_folders(tmp_path / "src", {"images": 2})
    (src / "labels.csv").write_text("file,x,y,z\nimages/0.jpg,1,0,-1\nimages/1.jpg,,1,0\n")
    prints = set()
    for number, columns in enumerate([("x..z",), ("x,y,z",), ("x", "y", "z"), ("x", "y..z")]):
        options = [word for column in columns for word in ("--label-column", column)]
        built = cli("corpus", "build", "src", f"i{number}", *options, "--uncertain", "negative", "--json")
        assert built.returncode == 0, built.stderr
        prints.add(json.loads(built.stdout)["fingerprint"])
    assert len(prints) == 1
    assert Corpus.open(tmp_path / "i0").facts["absent"] == {"labels": 3, "contradicted": 0}


def test_killed_build_leaves_nothing_and_the_next_one_works(src, tmp_path):
    large = jpeg(1, size=512)  # slow enough to decode that the kill falls into the build
    for k in range(1500):
        (src / "cat" / f"big{k}.jpg").write_bytes(large)
    build = command("corpus", "build", "src", "idx")
    process = processes.start(build, cwd=tmp_path)
    processes.wait_until(lambda: list(tmp_path.glob(".idx.*.building/unsorted.parquet")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "idx").exists()
    assert list(tmp_path.glob(".idx.*.building"))
    for k in range(1500):
        (src / "cat" / f"big{k}.jpg").unlink()
    again = processes.run(build, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert sorted(os.listdir(tmp_path)) == ["idx", "src"]


def test_full_disk_is_code_1_and_leaves_nothing(src, tmp_path):
    """No file may grow beyond 1 KiB, as on a disk that is full."""
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command("corpus", "build", "src", "idx")]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(limited, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result
    assert "scaleprior: error: cannot write" in result.stderr
    assert os.listdir(tmp_path) == ["src"]


def test_tinyimagenet_builds_directly(cli, shared_data, tmp_path):
    data = shared_data / "tinyimagenet"
    built = cli("corpus", "build", data, "idx", "--label-column", "wnid", "--split", "train", "--json")
    assert (built.returncode, built.stderr) == (0, "")
    facts = json.loads(built.stdout)
    # figures of the data's README
    assert (facts["images"], facts["nodes"], facts["leaves"], facts["skipped"]) == (17_800, 543, 200, 0)
    corpus = Corpus.open(tmp_path / "idx")
    fraction = corpus.fraction(images=1000)
    keys = fraction.keys()
    assert fraction.hashes().tolist() == sorted(hash64(keys).tolist())
    labels, offsets = fraction.labels()
    assert offsets.tolist() == list(range(1001))
    # the names of this data begin with their label: an oracle that the importer does not use
    assert [corpus.label_space.ids[label] for label in labels] == [key.split("_")[0] for key in keys]
    assert all(decode(fraction.read(k)).shape == (64, 64, 3) for k in range(0, 1000, 50))
    assert corpus.fraction(images=100).keys() == keys[:100]
    assert not any(name.endswith((".JPEG", ".tar")) for name in os.listdir(tmp_path / "idx"))  # nothing is extracted


def test_importing_the_room_is_light():
    code = (
        "import sys, scaleprior.corpus, scaleprior.commands.corpus, scaleprior.corpus.label_space\n"
        "heavy = {'torch', 'cv2', 'pyarrow', 'duckdb', 'scipy', 'matplotlib', 'simplejpeg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import scaleprior.corpus.world.world, scaleprior.corpus.importers.tars, scaleprior.corpus.noise\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_info_lists_labels_and_writes_a_page(cli, src, tmp_path):
    cli("corpus", "build", "src", "idx")
    before = {
        "name",
        "images",
        "nodes",
        "leaves",
        "skipped",
        "source",
        "root",
        "salt",
        "verified",
        "fingerprint",
        "index",
    }
    run = cli("corpus", "info", "idx", "--json", "--html", "page.html", "--sample", "4")
    assert (run.returncode, run.stderr) == (0, "")
    facts = json.loads(run.stdout)
    assert before <= set(facts)
    assert [(label["id"], label["images"]) for label in facts["labels"]] == [("cat", 6), ("dog", 4)]
    assert facts["headers"]["sample"] == {"images": 4, "of": 10, "complete": False, "read": 4}
    assert (tmp_path / facts["html"]).read_text().startswith("<!doctype html>")
    text = cli("corpus", "info", "idx", "--all").stdout
    assert "Of all 10 images: 10 JPEG." in text
    assert re.search(r"^label +images\ncat +6\ndog +4$", text, re.MULTILINE)
    refused = cli("corpus", "info", "idx", "--sample", "-1")
    assert (refused.returncode, refused.stderr) == (
        2,
        "scaleprior: error: --sample is -1; give a number of images, or 0 for none\n",
    )


def test_info_tells_what_it_can_without_the_images(cli, src, tmp_path):
    cli("corpus", "build", "src", "idx")
    src.rename(tmp_path / "moved")
    run = cli("corpus", "info", "idx")
    assert (run.returncode, run.stderr) == (0, "")
    assert "10 not readable (cannot be read)" in run.stdout


def test_build_says_what_was_read_as_what(cli, src, tmp_path):
    (src / "cat" / "broken.jpg").write_bytes(b"<html>")
    (src / "cat" / "notes.txt").write_text("")
    (src / "dog" / "gone").symlink_to("nowhere")
    built = cli("corpus", "build", "src", "idx", "--max-skipped", "0.2")
    assert built.returncode == 0, built.stderr
    labels, skipped, *met = built.stdout.split("\n\n")[1].splitlines()
    assert labels == "2 labels with images, most frequent first: cat 6, dog 4"
    assert skipped.startswith("Skipped images: 1 an HTML page")
    assert skipped.endswith("; corpus.json lists them.")
    assert met == ["Warning: links that lead nowhere: 1, such as dog/gone.", "Other files: 1 .txt."]
    facts = json.loads(cli("corpus", "build", "src", "two", "--max-skipped", "0.2", "--json").stdout)
    assert (facts["labels"], facts["images_without_labels"], facts["other_files"]) == (2, 0, {".txt": 1})
    assert facts["most_frequent"] == [["cat", 6], ["dog", 4]]
    assert list(facts["skipped_by_reason"].values()) == [1]
    assert facts["warnings"] == {"links that lead nowhere": {"count": 1, "examples": ["dog/gone"]}}


def test_shards_by_a_pattern_with_a_column_and_names(cli, tmp_path):
    for k in range(2):
        members = {
            f"{k}{i}.{e}": jpeg(i) if e == "jpg" else b'{"kind": %d}' % (i % 2)
            for i in range(3)
            for e in ("jpg", "json")
        }
        write_tar(tmp_path / f"s-{k:03d}.tar", members)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    options = ("--label-column", "kind", "--class-names", "names.txt")
    built = cli("corpus", "build", "s-{000..001}.tar", "idx", *options)
    assert (built.returncode, built.stderr) == (0, "")
    assert "2 labels with images, most frequent first: cat 4, dog 2" in built.stdout
    refused = cli("corpus", "build", "s-{000..001}.tar", "two", "--label-column", "a", "--label-column", "b")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--label-column ['a', 'b'] needs a table of labels" in refused.stderr


def test_build_says_which_labels_are_rare_and_that_most_images_have_none(cli, src, tmp_path):
    names = [f"{folder}/{k}.jpg" for folder, count in (("cat", 6), ("dog", 4)) for k in range(count)]
    rows = [f"{name},{chr(97 + k) + ';z' if k < 3 else ''}" for k, name in enumerate(names)]
    (src / "labels.csv").write_text("\n".join(["file,label", *rows]))
    (src / "hierarchy.json").write_text(json.dumps({"nodes": {label: {} for label in "abcxyz"}}))
    said = cli("corpus", "build", "src", "idx", "--yes").stdout
    assert "4 of 6 labels with images, most frequent first: z 3, a 1, b 1, c 1" in said
    assert "Warning: 7 of 10 images have no label." in said


def test_build_and_info_tell_of_files_out_of_order(cli, src):
    data = (src / "cat" / "0.jpg").read_bytes()
    (src / "cat" / "0.jpg").write_bytes(data[:-2] + bytes(40) + data[-2:])
    told = "Warning: images with spare bytes before a marker, read nevertheless: 1, such as cat/0.jpg."
    built = cli("corpus", "build", "src", "idx")
    assert built.returncode == 0, built.stderr
    assert told in built.stdout.splitlines()
    assert [line.split() for line in built.stdout.splitlines() if line.startswith("turned")] == [["turned", "0"]]
    assert told in cli("corpus", "info", "idx").stdout.splitlines()
    facts = json.loads(cli("corpus", "info", "idx", "--json").stdout)
    assert [warning["count"] for warning in facts["warnings"].values()] == [1]
    refused = cli("corpus", "build", "src", "two", "--strict")
    assert refused.returncode == 2
    assert "1 of 10 images (10.0%) cannot be used" in refused.stderr
    refused = cli("corpus", "build", "src", "two", "--strict", "--no-verify")
    assert refused.returncode == 2
    assert refused.stderr.startswith("scaleprior: error: --strict asks for images that are not decoded")


def test_labels_stay_on_their_line_and_steer_no_terminal(cli, tmp_path):
    class_folders(tmp_path / "src", {"a\nb": 2, "\x1b[31mred\u202e": 1, "\u732b": 1})
    built = cli("corpus", "build", "src", "i")
    assert "most frequent first: a\\nb 2, \\x1b[31mred\\u202e 1, \u732b 1" in built.stdout
    info = cli("corpus", "info", "i").stdout
    assert "\x1b" not in info
    assert "\u202e" not in info
    assert r"a\nb" in info
