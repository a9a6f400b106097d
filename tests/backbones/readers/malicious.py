"""Files that mean harm, written by the tests themselves; and, as a program, a reader that reports its memory.

    python -m tests.backbones.readers.malicious FOLDER

prints one JSON object: file -> [reason, "inert" (read, and no weights are in it), "accepted" or another error, growth
of peak memory in MiB].
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import re
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

__all__ = ["EXPECTED", "write_all"]

EXPECTED = {
    "system.pkl": "code",
    "system4.pkl": "code",
    "instance.pkl": "code",
    "protocol0.pkl": "code",
    "nested.pkl": "size",
    "laughs.pkl": "size",
    "memo.pkl": "size",
    "long_bytes.pkl": "damaged",
    "shape.pkl": "size",
    "objects.pkl": "inert",
    "nan.pkl": "numbers",
    "truncated.pkl": "damaged",
    "persistent.pkl": "code",
    "twice.pkl": "duplicate",
    "twice_later.pkl": "duplicate",
    "steps.pkl": "size",
    "namespace.pkl": "code",
    "called_namespace.pkl": "inert",
    "subclass.pkl": "code",
    "collide.pkl": "inert",
    "unknown.pkl": "inert",
    "importing.pkl": "inert",
    "partial.pkl": "inert",
    "keywords.pkl": "code",
    "deep.pkl": "inert",
    "cycle.pkl": "inert",
    "laughs_within.pkl": "inert",
    "message.pkl": "damaged",
    "system.pth": "code",
    "namespace.pth": "code",
    "beyond.pth": "size",
    "twice.pth": "duplicate",
    "legacy_system.pth": "code",
    "legacy_numel.pth": "size",
    "stride0.pth": "size",
    "script.pth": "inert",
    "bomb.pth": "size",
    "huge.npz": "size",
    "objects.npz": "code",
    "bomb.npz": "size",
    "open.npz": "damaged",
    "path.npz": "path",
    "twice.npz": "duplicate",
    "flipped.npz": "damaged",
    "header.safetensors": "size",
    "shape.safetensors": "damaged",
    "overlap.safetensors": "size",
    "twice.safetensors": "duplicate",
    "path.safetensors": "path",
    "inf.safetensors": "numbers",
    "escape.index.json": "path",
    "twins.safetensors": "duplicate",
    "noise.bin": "damaged",
}
"""File -> the reason it must be refused for, or "inert": its objects are placeholders, and nothing of them was run."""

_MARK = "executed"
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


class _System:
    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / _MARK}"

    def __reduce__(self) -> tuple:
        import os

        return os.system, (self.command,)


class _State:
    """A Namespace whose state would be set by calling something."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return argparse.Namespace, (), {"hook": _System(self.folder)}


def write_all(folder: Path) -> None:
    """Every file of ``EXPECTED``; if one is executed, a file named "executed" appears beside it."""
    _pickles(folder)
    _torch(folder)
    _npz(folder)
    _safetensors(folder)
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(4096))


def _pickles(folder: Path) -> None:
    def write(name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)

    evil = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "x": _System(folder)}
    write("system.pkl", pickle.dumps(evil, protocol=2))
    write("system4.pkl", pickle.dumps(evil, protocol=4))
    command = f"touch {folder / _MARK}".encode()
    write("instance.pkl", b"(dS'a'\n(S'" + command + b"'\nios\nsystem\ns.")
    write("protocol0.pkl", b"cos\nsystem\n(S'" + command + b"'\ntR.")
    write("nested.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 50_000 + b"a" * 49_999 + b"s.")
    # each list holds the one before ten times: 10 ** 12 leaves in 200 bytes
    laughs = b"\x80\x02]q\x000"
    for level in range(12):
        laughs += b"]q" + bytes([level + 1]) + b"(" + (b"h" + bytes([level])) * 10 + b"e0"
    write("laughs.pkl", laughs + b"}X\x01\x00\x00\x00ah\x0cs.")
    write("memo.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")  # a table for 2 ** 31 objects
    write("long_bytes.pkl", b"\x80\x04}\x8e" + struct.pack("<Q", 10 << 30) + b"abc.")
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    write("shape.pkl", b"\x80\x02}U\x01a" + _ARRAY + b"(I1\n(I50000\nI50000\nt" + dtype + b"I00\nU\x04abcdtbs.")
    write("objects.pkl", pickle.dumps({"conv1_w": np.array([_System, 1], dtype=object)}, protocol=2))
    write("persistent.pkl", b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00bQs.")
    entry = b"X\x01\x00\x00\x00aK\x01"
    write("twice.pkl", b"\x80\x02}(" + entry + entry + b"u.")
    write("twice_later.pkl", b"\x80\x02}q\x00(" + entry + b"u0h\x00(" + entry + b"u.")  # in two runs, by memory
    write("steps.pkl", b"\x80\x02}" + b"N0" * 2_000_000 + b".")
    write("namespace.pkl", pickle.dumps({"args": _State(folder)}, protocol=2))
    # an object that is called makes another one that is passed over
    write("called_namespace.pkl", b"\x80\x02cargparse\nNamespace\n)\x81(S'true'\ntR.")
    write("subclass.pkl", b"\x80\x02cargparse\nNamespace.__init__.__globals__\n)R.")
    collide = b"".join(b"\x8a\x10" + (k * ((1 << 61) - 1)).to_bytes(16, "little") + b"N" for k in range(1, 3000))
    write("collide.pkl", b"\x80\x02}(" + collide + b"u.")  # keys of one hash, each compared with all before it
    (folder / "leaves_a_trace.py").write_text(f"open({str(folder / _MARK)!r}, 'w')\n\n\nclass Settings:\n    pass\n")
    write("importing.pkl", b"\x80\x02}U\x01acleaves_a_trace\nSettings\n)\x81}U\x01bK\x01sbs.")
    write("unknown.pkl", b"\x80\x02}U\x01acleaves_a_trace\nrun\n(U\x04truetRs.")
    write("partial.pkl", b"\x80\x02cfunctools\npartial\n(cos\nsystem\nU" + bytes([len(command)]) + command + b"tR)R.")
    write("keywords.pkl", b"\x80\x04csubprocess\nPopen\n)}(\x8c\x04args\x8c\x04trueu\x92.")
    unknown = b"cnowhere\nNode\n)\x81"
    write("deep.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + unknown * 50_000 + b"b" * 49_999 + b"s.")
    write("cycle.pkl", b"\x80\x02" + unknown + b"q\x00}X\x07\x00\x00\x00_parenth\x00sb.")
    write("laughs_within.pkl", b"\x80\x02" + unknown + laughs[2:] + b"h\x0cb.")
    write("message.pkl", laughs + b"0h\x0ch\x0c\x93.")  # what a message would show of it has 10 ** 12 characters
    good = {"conv1_w": np.zeros((64, 3, 7, 7), np.float32), "res2_0_branch2a_w": np.zeros((64, 64, 1, 1), np.float32)}
    write("truncated.pkl", pickle.dumps(good, protocol=2)[:-2000])
    arrays = {k: v.numpy() for k, v in _narrow().items()}
    arrays["layer1.0.conv1.weight"][0, 0, 0, 0] = np.nan
    write("nan.pkl", pickle.dumps(arrays, protocol=4))


def _narrow() -> dict:
    """A whole R-50 of an eighth of the width, in torchvision's names."""
    from scaleprior.backbones import ResNetSpec, build_resnet

    return build_resnet(ResNetSpec(res2_out_channels=32, width_per_group=8)).state_dict()


def _torch(folder: Path) -> None:
    import torch

    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "x": _System(folder)}, folder / "system.pth")
    small = {"conv1.weight": torch.zeros(4)}
    torch.save({**small, "x": _System(folder)}, folder / "legacy_system.pth", _use_new_zipfile_serialization=False)
    torch.save(small, folder / "legacy_numel.pth", _use_new_zipfile_serialization=False)
    data = (folder / "legacy_numel.pth").read_bytes()
    assert data.count(b"X\x03\x00\x00\x00cpuq\x06K\x04") == 1
    claim = b"X\x03\x00\x00\x00cpuq\x06J" + struct.pack("<i", 2_000_000_000)  # 8 GB of floats
    (folder / "legacy_numel.pth").write_bytes(data.replace(b"X\x03\x00\x00\x00cpuq\x06K\x04", claim))
    torch.save({"conv1.weight": torch.zeros(1).expand(50_000, 50_000)}, folder / "stride0.pth")  # 10 GB from 4 bytes
    torch.save({"args": _State(folder), "state_dict": small}, folder / "namespace.pth")
    _patched(folder / "beyond.pth", {"a": torch.zeros(4)[1:]}, b"K\x01K\x03\x85", b"K\x02K\x03\x85")
    _patched(folder / "twice.pth", {"aa": small["conv1.weight"], "ab": 1}, b"\x02\x00\x00\x00ab", b"\x02\x00\x00\x00aa")
    torch.jit.script(torch.nn.Conv2d(3, 4, 1)).save(str(folder / "script.pth"))
    buffer = io.BytesIO()
    torch.save(small, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/9", bytes(100 << 20))


def _patched(path: Path, content: dict, old: bytes, new: bytes) -> None:
    """A torch file one of whose claims is another, with the checksums of the archive in order."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert data.count(old) == 1, data
                data = data.replace(old, new)
            target.writestr(name, data)


def _npy_header(shape: str, kind: str = "<f4") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _npz(folder: Path) -> None:
    kernel = "resnet/root_block/standardized_conv2d/kernel.npy"
    with zipfile.ZipFile(folder / "huge.npz", "w") as archive:
        archive.writestr(kernel, _npy_header("(50000, 50000)") + b"abcd")
    np.savez(folder / "objects.npz", **{kernel[:-4]: np.array([_System(folder)], dtype=object)})
    np.savez(folder / "flipped.npz", **{kernel[:-4]: np.arange(64, dtype=np.float32)})
    data = bytearray((folder / "flipped.npz").read_bytes())
    data[data.index(b"NUMPY") + 200] ^= 1
    (folder / "flipped.npz").write_bytes(data)
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(kernel, _npy_header("(26214400,)") + bytes(100 << 20))
    with zipfile.ZipFile(folder / "open.npz", "w") as archive:
        archive.writestr(kernel, _npy_header("(((1,"))  # NumPy's reader of headers: a TokenError
    with zipfile.ZipFile(folder / "path.npz", "w") as archive:
        archive.writestr("../../etc/passwd.npy", _npy_header("(1,)") + b"abcd")
    with zipfile.ZipFile(folder / "twice.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(2):
            archive.writestr(kernel, _npy_header("(1,)") + b"abcd")


def _safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    def write(name: str, header: str, body: bytes = bytes(8)) -> None:
        (folder / name).write_bytes(struct.pack("<Q", len(header)) + header.encode() + body)

    entry = '{"dtype":"F32","shape":[%s],"data_offsets":[%s]}'
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 10 << 30) + b'{"a":1}')
    write("shape.safetensors", f'{{"a":{entry % ("50000,50000", "0,10000000000")}}}')
    write("overlap.safetensors", f'{{"a":{entry % ("2", "0,8")},"b":{entry % ("1", "4,8")}}}')
    write("twice.safetensors", f'{{"a":{entry % ("1", "0,4")},"a":{entry % ("1", "4,8")}}}')
    write("path.safetensors", f'{{"../../../etc/passwd":{entry % ("2", "0,8")}}}')
    state = _narrow()
    save_file(_one_norm_twice(state), folder / "twins.safetensors")
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.inf
    save_file(state, folder / "inf.safetensors")
    (folder / "escape.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))


def _one_norm_twice(state: dict) -> dict:
    """Caffe2's names, and the stem's norm also as MSRA's files call it."""
    from scaleprior.backbones import to_detectron2

    words = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    tensors = {"weight": "w", "norm.weight": "bn_s", "norm.bias": "bn_b", "norm.running_mean": "bn_rm"}
    tensors["norm.running_var"] = "bn_riv"
    named = {}
    for name, value in to_detectron2(state).items():
        stage, *block, part, tensor = re.sub(r"\.norm\.", ".norm_", name).split(".")
        tensor = tensors[tensor.replace("norm_", "norm.")]
        named["_".join([stage, *block, words[part], tensor] if block else [part, tensor])] = value.clone()
    return {**named, "res_conv1_bn_s": named["conv1_bn_s"].clone()}


def peak() -> int:
    """Peak memory of this program in KiB. Not ``ru_maxrss``: that begins with the size of the process it came from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def _main(folder: Path) -> None:
    import torch

    from scaleprior.backbones import ReadOptions, read_backbone
    from scaleprior.errors import UserError

    torch.set_num_threads(1)
    torch.zeros(1).sum()
    found = {}
    for name in EXPECTED:
        before = peak()
        try:
            read_backbone(folder / name, ReadOptions(assume="torchvision"))
            said = "accepted"
        except UserError as e:
            said = getattr(e, "reason", "inert")
        except Exception as e:
            said = f"{type(e).__name__}: {e}"
        found[name] = [said, (peak() - before) / 1024]
    print(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
