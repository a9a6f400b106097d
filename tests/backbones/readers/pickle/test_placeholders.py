"""Objects beside weights become inert, named placeholders: never imported, built or called, with their state inside."""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.backbones import ReadOptions, RefusedFileError, read_backbone
from scaleprior.backbones.readers.limits import LIMITS
from scaleprior.backbones.readers.pickle import Placeholder, Tree, load_pickle, load_torch_legacy, load_torch_zip

_GONE = """
import collections, enum

class Settings:
    def __init__(self, **given): self.__dict__.update(given)

class EasyDict(dict):
    def __init__(self, **given):
        super().__init__(**given)
        self.__dict__.update(given)

class Slots:
    __slots__ = ("mean", "std")
    def __init__(self): self.mean, self.std = 0.5, 0.25

class Both(Slots):
    def __init__(self):
        super().__init__()
        self.name = "both"

class Numbers(list): pass
class Named(collections.namedtuple("Named", "a b")): pass
class Kind(enum.Enum): RGB = 1

class Keywords:
    def __new__(cls, *, a=1): return super().__new__(cls)
    def __getnewargs_ex__(self): return (), {"a": 1}

class Reduced:
    def __reduce__(self): return Reduced, (3, "x")

class Custom:
    def __getstate__(self): return ("version", 2)
    def __setstate__(self, state): pass

def function(): pass
"""


@pytest.fixture
def gone() -> Iterator[types.ModuleType]:
    """Classes of a module that is there when a file is written, and nowhere when it is read."""
    module = types.ModuleType("gone_package")
    exec(_GONE, module.__dict__)
    sys.modules["gone_package"] = module
    yield module
    sys.modules.pop("gone_package", None)


def torch_zip(path: Path, content: Any) -> Tree:
    torch.save(content, path)
    sys.modules.pop("gone_package", None)
    return load_torch_zip(path)


def torch_legacy(path: Path, content: Any) -> Tree:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    sys.modules.pop("gone_package", None)
    return load_torch_legacy(path)


def plain_pickle(protocol: int) -> Callable[[Path, Any], Tree]:
    def write_and_read(path: Path, content: Any) -> Tree:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        sys.modules.pop("gone_package", None)
        return load_pickle(str(path))

    return write_and_read


FORMATS = {"zip": torch_zip, "legacy": torch_legacy, **{f"pickle{p}": plain_pickle(p) for p in range(6)}}


@pytest.mark.parametrize("form", FORMATS)
def test_what_an_object_holds_is_kept_as_plain_data(form: str, gone: types.ModuleType, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "args": argparse.Namespace(mean=(0.5, 0.5), nested=argparse.Namespace(lr=0.1)),
        "simple": types.SimpleNamespace(a=1),
        "own": gone.Settings(lr=0.1, inner=gone.Settings(b=[1, {"c": None}])),
        "easy": gone.EasyDict(a=1, inner=gone.EasyDict(b=2)),
        "numbers": gone.Numbers([1, 2]),
        "named": gone.Named(1, 2),
        "kind": gone.Kind.RGB,
        "reduced": gone.Reduced(),
        "custom": gone.Custom(),
        "function": gone.function,
        "class": gone.Settings,
        "counts": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "path": pathlib.PurePosixPath("a/b"),
        "device": torch.device("cpu"),
        "type": torch.float16,
        "partial": functools.partial(int, "3"),
    }
    if form not in ("pickle0", "pickle1"):  # those cannot write slots, and enumerations of theirs differ
        content |= {"slots": gone.Slots(), "both": gone.Both(), "keywords": gone.Keywords()}
    tree = FORMATS[form](tmp_path / "w", content)
    found = tree.content
    assert "gone_package" not in sys.modules
    assert found["args"] == Placeholder(
        "argparse.Namespace", {"mean": [0.5, 0.5], "nested": Placeholder("argparse.Namespace", {"lr": 0.1})}
    )
    assert found["simple"].content == {"a": 1}
    assert found["own"] == Placeholder(
        "gone_package.Settings", {"lr": 0.1, "inner": Placeholder("gone_package.Settings", {"b": [1, {"c": None}]})}
    )
    assert found["easy"] == Placeholder(
        "gone_package.EasyDict", {"a": 1, "inner": Placeholder("gone_package.EasyDict", {"b": 2})}
    )
    assert found["numbers"] == Placeholder("gone_package.Numbers", [1, 2])
    assert found["custom"] == Placeholder("gone_package.Custom", ["version", 2])
    assert found["reduced"] == Placeholder("gone_package.Reduced", [3, "x"])
    assert found["function"] == Placeholder("gone_package.function")
    assert found["class"] == Placeholder("gone_package.Settings")
    assert found["counts"] == Placeholder("collections.defaultdict", {"a": [1]})
    assert found["device"] == Placeholder("torch.device", ["cpu"])
    assert found["type"] == Placeholder("torch.float16")
    assert found["partial"].name == "functools.partial"
    if "slots" in content:
        assert found["slots"] == Placeholder("gone_package.Slots", {"mean": 0.5, "std": 0.25})
        assert found["both"] == Placeholder("gone_package.Both", {"name": "both", "mean": 0.5, "std": 0.25})
        # what protocols 2 and 3 call is a partial function
        assert found["keywords"].name == (
            "gone_package.Keywords" if form in ("pickle4", "pickle5") else "functools.partial"
        )
    assert set(found) == set(content)
    assert {said.split(": ")[0] for said in tree.left_out} == set(content)
    assert "own: gone_package.Settings" in tree.left_out


def unusual() -> dict[str, Any]:
    """What torch and NumPy know and weights are not, or not of."""
    complex_ = torch.zeros(2, dtype=torch.complex64)
    return {
        "objects": np.array([{"a": 1}, None], dtype=object),
        "texts": np.array(["a", "bc"]),
        "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "records": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
        "complex": np.zeros(3, dtype=np.complex64),
        "text": np.str_("a"),
        "array_type": np.dtype("float32"),
        "random": np.random.default_rng(0),
        "state": np.random.RandomState(0).get_state(),
        "python": random.getstate(),
        "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
        "generator": torch.Generator().get_state(),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "channelwise": torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.quint8),
        "complex_tensor": complex_,
        "conjugate": complex_.conj(),
        "untyped": torch.ones(2).untyped_storage(),
        "meta": torch.empty(3, device="meta"),
        "eight_bits": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "unsigned": torch.zeros(2, dtype=torch.uint16),
        "optimiser": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9),
        "schedule": torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.ones(1)], lr=0.1), float),
        "dates_of_days": {datetime.date(2020, 1, 2): 1, (1, (2, 3)): 2, 1 << 80: 3, torch.ones(1): 4},
        "kinds": {torch.float16, torch.float32},
        "nan": float("nan"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_of_other_kinds_do_not_block_weights(form: str, tmp_path: Path) -> None:
    content = unusual()
    tree = FORMATS[form](tmp_path / "w", {**content, "weight": torch.arange(3.0)})
    found = tree.content
    assert found["weight"].tolist() == [0, 1, 2]
    assert set(found) == {*content, "weight"}
    tensors = {name for name, value in found.items() if isinstance(value, (torch.Tensor, np.ndarray))}
    assert tensors == {"weight", "generator"}
    assert found["objects"] == Placeholder("numpy.ndarray", [{"a": 1}, None])
    assert found["array_type"] == Placeholder("numpy.dtype", "float32")
    assert found["quantised"].name == "torch._utils._rebuild_qtensor"
    assert found["sparse"].name == "torch._utils._rebuild_sparse_tensor"
    assert found["optimiser"].name == "torch.optim.sgd.SGD"
    assert list(found["dates_of_days"]) == ["<datetime.date 0>", "<tuple 1>", "<int 2>", "<torch.Tensor 3>"]
    assert sorted(kind.name for kind in found["kinds"]) == ["torch.float16", "torch.float32"]


class Tagged(torch.Tensor):
    """A tensor of a subclass."""


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_with_attributes_and_of_subclasses_are_tensors(form: str, tmp_path: Path) -> None:
    weight, parameter = torch.arange(3.0), torch.nn.Parameter(torch.arange(4.0))
    weight.note = parameter.note = "kept by torch"  # pyright: ignore[reportAttributeAccessIssue]
    content = {
        "attribute": weight, "parameter": parameter, "subclass": torch.arange(2.0).as_subclass(Tagged),
        "buffer": torch.nn.Buffer(torch.ones(2)), "hooked": torch.nn.Parameter(torch.ones(1)),
    }  # fmt: skip
    found = FORMATS[form](tmp_path / "w", content)
    for name, value in content.items():
        assert torch.equal(torch.as_tensor(found.content[name]), value.detach().as_subclass(torch.Tensor)), name
    assert not found.left_out


def test_pandas_frames_are_passed_over(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    found = torch_zip(tmp_path / "w", {"frame": frame, "weight": torch.ones(1)})
    assert found.left_out == [f"frame: {type(frame).__module__}.DataFrame"]


def test_configs_whose_nodes_know_their_parents_end_there(tmp_path: Path) -> None:
    """omegaconf's; written with its real classes where they are installed."""
    omegaconf = pytest.importorskip("omegaconf")
    cfg = omegaconf.OmegaConf.create({"model": {"depth": 50, "deep": {"a": {"b": {"c": {"d": {"e": [1]}}}}}}})
    found = torch_zip(tmp_path / "w", {"hyper_parameters": cfg, "weight": torch.ones(1)}).content["hyper_parameters"]
    assert found.name == "omegaconf.dictconfig.DictConfig"
    model = found.content["_content"]["model"]
    assert model.content["_content"]["depth"].content["_val"] == 50
    assert model.content["_parent"] == Placeholder("omegaconf.dictconfig.DictConfig")
    at = model
    for key in ("deep", "a", "b", "c", "d"):
        at = at.content["_content"][key]
    assert at.content["_content"]["e"].content["_content"][0].content["_val"] == 1


def test_what_lies_too_deep_in_an_object_is_cut_off_and_deep_weights_are_refused(
    gone: types.ModuleType, tmp_path: Path
) -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = gone.Settings(inner=[deep])
    tree = torch_zip(tmp_path / "w", {"deep": deep, "weight": torch.ones(1)})
    at, depth = tree.content["deep"], 0
    while at.content is not None:
        at, depth = at.content["inner"], depth + 1
        at = at[0] if isinstance(at, list) else at
    assert 10 < depth < 60
    lists: Any = torch.ones(1)
    for _ in range(LIMITS.depth + 1):
        lists = [lists]
    with pytest.raises(RefusedFileError, match="nested deeper than 16"):
        torch_zip(tmp_path / "w", {"lists": lists})


def test_many_values_in_objects_are_cut_off_and_many_weights_are_refused(
    gone: types.ModuleType, tmp_path: Path
) -> None:
    history = gone.Settings(losses=[[float(n)] * 10 for n in range(50_000)])
    tree = torch_zip(tmp_path / "w", {"history": history, "weight": torch.ones(1)})
    losses = tree.content["history"].content["losses"]
    assert losses[0] == [0.0] * 10
    assert losses[-1] == Placeholder("list")
    with pytest.raises(RefusedFileError, match="at most 50,000"):
        torch_zip(tmp_path / "w", {"losses": [[float(n)] * 10 for n in range(50_000)]})


def test_a_class_whose_import_leaves_a_trace_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the control that Python's own reader does leave it."""
    trace, module = tmp_path / "trace", tmp_path / "trace_leaver.py"
    module.write_text(f"open({str(trace)!r}, 'w').close()\n\n\nclass Settings:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = b"\x80\x02}(X\x01\x00\x00\x00actrace_leaver\nSettings\n)\x81}X\x01\x00\x00\x00bK\x01sbu."
    (tmp_path / "w.pkl").write_bytes(code)
    found = load_pickle(str(tmp_path / "w.pkl"))
    assert found.content == {"a": Placeholder("trace_leaver.Settings", {"b": 1})}
    assert "trace_leaver" not in sys.modules
    assert not trace.exists()
    assert pickle.loads(code)["a"].b == 1
    assert trace.exists()
    sys.modules.pop("trace_leaver")


@pytest.mark.parametrize(
    "name", ["os.system", "nt.system", "torch.serialization.os.system", "builtins.eval", "subprocess.Popen"]
)
def test_a_call_of_what_attacks_call_is_refused_and_the_name_alone_is_inert(name: str, tmp_path: Path) -> None:
    module, function = name.rsplit(".", 1)
    named = f"c{module}\n{function}\n".encode()
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + named + b"U\x04true\x85R.")
    with pytest.raises(RefusedFileError, match=rf"it calls {name}, which is no part of weights \[refused: code\]"):
        load_pickle(str(tmp_path / "w.pkl"))
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + named + b".")
    assert load_pickle(str(tmp_path / "w.pkl")) == Tree(Placeholder(name), [f"all of it: {name}"])


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_with_objects_gives_its_backbone(old: bool, gone: types.ModuleType, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    content = {"args": gone.EasyDict(lr=1), "callbacks": {"best": gone.Settings(a=gone.Kind.RGB)}, "state_dict": state}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    sys.modules.pop("gone_package")
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(assume="torchvision"))
    assert torch.equal(reading.tensors["stem.conv1.weight"], state["conv1.weight"])
    assert "args: gone_package.EasyDict, callbacks.best: gone_package.Settings" in reading.report.notes[0]
