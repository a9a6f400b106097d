"""Evaluation over processes and loader workers: the same figures, to the bit, and a run that is left as it was."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing import spawn

from scaleprior.backbones import ResNetSpec
from scaleprior.corpus import Corpus
from scaleprior.errors import FailureError
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet
from scaleprior.pretrain.evaluation.crops import CentralCrops, CropShare, Room
from scaleprior.pretrain.evaluation.features import pooled_features
from scaleprior.pretrain.evaluation.held_out import evaluate
from scaleprior.pretrain.evaluation.measures import Measures
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.training.checkpoint import rng_state
from scaleprior.training.processes import ProcessGroup, join_processes
from tests.pretrain.conftest import index_images, index_verified, write_images

CPU = torch.device("cpu")
NARROW = ResNetSpec(res2_out_channels=16, width_per_group=4)


def network(labels: int, seed: int = 0) -> Pretrainer:
    torch.manual_seed(seed)
    model = Pretrainer(NARROW, labels, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3, bias=-1.0)
    model.train()(torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8))  # running statistics of its own
    return model


def share(images: ImageSet, *, rank: int = 0, size: int = 1, workers: int = 0, room: int = 0) -> CropShare:
    crops = CentralCrops(images, CropAugmentation("resize_crop", 16, 20), order="RGB", batch_size=4)
    return CropShare(crops, rank=rank, size=size, workers=workers, room=Room(room))


def rows_of(index: Path, images: int) -> ImageSet:
    fraction = Corpus.open(index).fraction(images=images)
    absent = fraction.absent() if fraction.has_absent else None
    return ImageSet(fraction, *fraction.labels(), absent=absent)


def _evaluate_apart(rank: int, index: str, counts: list[int], out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=2)
    with join_processes(CPU) as processes:
        # The processes' running statistics are their own; those of the main one count, and nobody loses his.
        model = network(8)
        if rank:
            model.train()(torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = []
        for count in counts:
            images = rows_of(Path(index), count)
            figures = evaluate(model, share(images, rank=rank, size=2), processes)
            features = pooled_features(model, share(images, rank=rank, size=2), processes)
            found.append((asdict(figures), features.values, features.rows))
        probes = Measures(processes, probe=share(images, rank=rank, size=2), kinds=("linear", "knn"))
        found.append(probes(model).to_dict())
        sharded = Pretrainer(
            NARROW, 8, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3, bias=-1.0, shards=processes
        )  # fmt: skip
        sharded.load_state_dict(model.state_dict())
        found.append(asdict(evaluate(sharded, share(images, rank=rank, size=2), processes)))
        same = all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        torch.save((found, same), f"{out}/{rank}")


def test_two_processes_find_what_one_finds_to_the_bit(tmp_path: Path) -> None:
    """Of 3 images, in batches of 4, one process has none; what is absent is recorded; some cannot be read."""
    index, counts, alone = index_verified(tmp_path), [3, 58], ProcessGroup(0, 1, CPU)
    for path in sorted((tmp_path / "images" / "red").iterdir())[:3]:
        path.write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    spawn(_evaluate_apart, (str(index), counts, str(tmp_path / "out")), nprocs=2)
    apart = [torch.load(tmp_path / "out" / str(rank)) for rank in range(2)]
    for place, count in enumerate(counts):
        images, model = rows_of(index, count), network(8)
        whole, features = evaluate(model, share(images), alone), pooled_features(model, share(images), alone)
        for found, same in apart:
            figures, values, rows = found[place]
            assert figures == asdict(whole)
            assert torch.equal(values, features.values)
            assert torch.equal(rows, features.rows)
            assert same
    assert whole.unreadable
    probes = Measures(alone, probe=share(images), kinds=("linear", "knn"))(network(8)).to_dict()
    assert [found[2] for found, _ in apart] == [probes, probes]
    assert [found[3] for found, _ in apart] == [asdict(whole)] * 2  # of a head in shards
    assert "probe/linear_map" in probes


@pytest.mark.parametrize(("room", "times"), [(0, 36), (2000, 34), (8000, 26), (10**6, 18)])
def test_workers_and_memory_change_nothing_and_what_is_in_memory_is_not_decoded_again(
    corpus_folder: Path, room: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, model, alone = rows_of(corpus_folder, 18), network(8), ProcessGroup(0, 1, CPU)
    whole = evaluate(model, share(images), alone)
    decoded: list[int] = []
    real = ImageSet.decode
    monkeypatch.setattr(ImageSet, "decode", lambda self, row, order: decoded.append(row) or real(self, row, order))
    kept = share(images, room=room)
    assert evaluate(model, kept, alone) == evaluate(model, kept, alone) == whole
    assert len(decoded) == times  # batches of 3072 bytes, the last of 1536
    drawn = rng_state()["torch"].clone()
    apart = share(images, workers=2, room=room)
    assert evaluate(model, apart, alone) == evaluate(model, apart, alone) == whole
    assert torch.equal(rng_state()["torch"], drawn)


def test_the_model_comes_back_as_it_was(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of which a part is in evaluation mode while it trains, as a frozen trunk is; also after an error."""
    images, model = rows_of(corpus_folder, 6), network(8)
    model.train()
    model.trunk.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    evaluate(model, share(images), ProcessGroup(0, 1, CPU))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    monkeypatch.setattr(model.trunk, "pooled", lambda pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(model, share(images), ProcessGroup(0, 1, CPU))
    assert [module.training for module in model.modules()] == modes


def test_none_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    corpus = index_images(write_images(tmp_path / "images", 1), tmp_path / "index")
    for path in (tmp_path / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    images = ImageSet(corpus.fraction(images=6), *corpus.fraction(images=6).labels())
    with pytest.raises(FailureError, match=r"none of the 6 held-out images can be read; check PRETRAIN.HELD_OUT"):
        evaluate(network(8), share(images), ProcessGroup(0, 1, CPU))
