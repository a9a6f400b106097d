"""``scaleprior doctor``: versions, devices, Detectron2, data roots, and what will work here."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from scaleprior.pages.numbers import some
from scaleprior.terminal import say, say_json
from scaleprior.wording import bytes_in_words

__all__ = ["examine", "register"]

_LIBRARIES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "opencv-python", "simplejpeg", "pyarrow", "duckdb", "safetensors",
    "fvcore", "iopath", "faster-coco-eval", "matplotlib", "rich", "jinja2", "pyyaml",
)  # fmt: skip
_DETECTRON2_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``doctor`` parser."""
    parser = subparsers.add_parser("doctor", help="versions, GPU, Detectron2, data roots; what will work and what not")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    findings = examine()
    if args.json:
        say_json(findings)
        return 0 if findings["ok"] else 1
    for name, version in {"python": findings["python"], **findings["libraries"]}.items():
        say(f"{name:18} {version or 'MISSING'}")
    say(f"{'cores':18} {findings['cores']}")
    say(f"{'gpus':18} {', '.join(findings['gpus']) or 'none'}")
    say(f"{'detectron2':18} {findings['detectron2'] or 'not installed'}")
    say(f"{'engines':18} {', '.join(findings['engines'])}")
    say(f"{'executors':18} {', '.join(findings['executors'])}")
    for name, state in findings["data"].items():
        say(f"{name:18} {state}")
    say("")
    for check in findings["checks"]:
        mark = {True: "works", False: "will not work"}[check["works"]]
        say(f"{check['what']}: {mark}{' - ' + check['why'] if check['why'] else ''}")
    return 0 if findings["ok"] else 1


def examine() -> dict[str, Any]:
    """Look at the machine and the environment; tries what can break in a way that versions do not show."""
    from scaleprior.detect.engines import known_engines
    from scaleprior.study.executors import known_executors

    libraries = {name: _version(name) for name in _LIBRARIES}
    missing = [name for name, version in libraries.items() if version is None]
    pair = _try_torchvision()
    detectron2 = _detectron2()
    complete = f"missing: {', '.join(missing)}; run `pip install scaleprior` again" if missing else pair
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    coco = root / "coco" / "annotations" / "instances_val2017.json"
    checks = [
        {"what": "pretraining and the torchvision engine", "works": not complete, "why": complete},
        {
            "what": "the detectron2 engine",
            "works": _has_engine("detectron2") and detectron2 is not None,
            "why": _why_no_detectron2(detectron2),
        },
        {
            "what": "COCO by name (coco_2017_train, coco_2017_val, ...)",
            "works": coco.is_file(),
            "why": ""
            if coco.is_file()
            else f"{coco} is not there; set DETECTRON2_DATASETS to the folder that holds coco/",
        },
    ]
    return {
        "python": platform.python_version(),
        "libraries": libraries,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus() if not complete else [],
        "detectron2": detectron2,
        "engines": known_engines(),
        "executors": known_executors(),
        "data": {
            "DETECTRON2_DATASETS": f"{root} ({'found' if root.is_dir() else 'absent'})",
            "decoded images": _decoded_images(),
        },
        "checks": checks,
        "ok": not complete,
    }


def _decoded_images() -> str:
    from scaleprior.detect.data.store.room import machine_room, tenants

    room = machine_room(1)
    assert room is not None
    found = tenants(room.folder)
    return f"{room.folder} ({some(len(found), 'set')}, {bytes_in_words(sum(each.bytes for each in found))} at most)"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _try_torchvision() -> str:
    """Empty if torch and torchvision work together: a pair that does not match imports, then lacks its operators."""
    try:
        import torch
        import torchvision.ops

        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.9]])
        torchvision.ops.nms(boxes, torch.tensor([0.5, 0.6]), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as e:
        return f"torch and torchvision do not work together ({' '.join(str(e).split())[:160]}); install a matching pair"
    return ""


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _detectron2() -> str | None:
    """Where Detectron2 is; None if it is not installed. Its version says nothing about its age, so it is not shown."""
    spec = importlib.util.find_spec("detectron2")
    return str(Path(spec.origin).parent) if spec and spec.origin else None


def _has_engine(name: str) -> bool:
    return any(e.name == name for e in importlib.metadata.entry_points(group="scaleprior.engines"))


def _why_no_detectron2(detectron2: str | None) -> str:
    if detectron2 is None:
        return f"Detectron2 is not installed; see {_DETECTRON2_GUIDE}"
    return "" if _has_engine("detectron2") else "this version of ScalePrior comes without a detectron2 engine"
