"""Plain JPEGs are decoded by torchvision on the device of the training, cropped and resized there.

What the device cannot decode, our own decoder is given: it says what is wrong with an image, and some it repairs.
torchvision 0.20 was the first to decode batches on a GPU, on the decoder chips of an A100 or newer where there are any;
from 0.29 on it calls the function deprecated (TorchCodec is to take it over), and still has it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
import torch
import torchvision
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from scaleprior.corpus.images.orientation import turn
from scaleprior.errors import UserError
from scaleprior.pretrain.data.batches import LabelledBatch, TrainBatches, batches
from scaleprior.pretrain.data.encoded import EncodedBatch, EncodedBatches, EncodedImage
from scaleprior.pretrain.data.resampling import resampled

__all__ = ["DeviceDecoder", "decoded_batches"]


def decoded_batches(
    dataset: TrainBatches, start: int, stop: int, *, workers: int, device: torch.device
) -> Iterator[LabelledBatch]:
    """What ``batches.batches`` gives, with images that ``device`` decoded and that lie there; see
    :class:`DeviceDecoder`."""
    encoded = EncodedBatches(dataset)
    return map(DeviceDecoder(encoded, device), batches(encoded, start, stop, workers=workers))


class DeviceDecoder:
    """Turns an :class:`EncodedBatch` into the :class:`LabelledBatch` that the CPU's loader makes of the same step, up
    to rounding, with images on ``device``.

    Pixels differ where decoders round differently; the crops are the same rectangles, and resizing has OpenCV's
    weights. On a GPU the work is done on a stream of its own, beside the step that runs.

    Raises:
        UserError: torchvision cannot decode on this device.
    """

    def __init__(self, dataset: EncodedBatches, device: torch.device) -> None:
        self._dataset = dataset
        self._whole = dataset.whole
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        sample = torch.frombuffer(bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))), dtype=torch.uint8)
        try:
            _decoded([sample, sample], device)
        except (RuntimeError, TypeError, AttributeError) as e:
            raise UserError(
                f"PRETRAIN.LOADER.DECODE is 'gpu', but torchvision {torchvision.__version__} decodes no JPEGs on "
                f"{device}: {e}",
                hint="set it to cpu, or install torchvision 0.20 or newer with nvJPEG",
            ) from e

    def __call__(self, batch: EncodedBatch) -> LabelledBatch:
        """The batch with its images decoded, in their order."""
        if self._stream is None:
            return self._labelled(batch)
        # torchvision writes from a stream of its own, which waits for nobody, into memory that was freed on this one,
        # where the last batch may not be done with it.
        self._stream.synchronize()
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            made = self._labelled(batch)
        current.wait_stream(self._stream)
        made.images.record_stream(current)  # else its memory could be given away while the step still reads it
        return made

    def _labelled(self, batch: EncodedBatch) -> LabelledBatch:
        size = batch.augmentation.size
        images = torch.empty(len(batch.rows), size, size, 3, dtype=torch.uint8, device=self._device)
        images[batch.places.to(self._device)] = batch.crops.to(self._device)
        codes = [batch.code[image.start : image.stop] for image in batch.encoded]
        pixels = _decoded_apart(codes, self._device)
        good = [(p, image) for p, image in zip(pixels, batch.encoded) if p is not None and _fits(p, image)]
        if good:
            upright = [_upright(p, image.orientation) for p, image in good]
            crops = resampled(upright, [image.part for _, image in good], size)
            places = torch.tensor([image.place for _, image in good]).to(self._device)
            images[places] = crops.flip(3) if self._whole.order == "BGR" else crops
        left = {image.place for image in batch.encoded} - {image.place for _, image in good}
        bad = dict(self._by_our_own([image for image in batch.encoded if image.place in left], batch, images))
        if not bad:
            return LabelledBatch(images, batch.targets, batch.rows, batch.unreadable)
        kept = torch.tensor([place for place in range(len(batch.rows)) if place not in bad], dtype=torch.int64)
        rows = batch.rows[kept]
        unreadable = (*batch.unreadable, *((int(batch.rows[place]), reason) for place, reason in bad.items()))
        return LabelledBatch(images[kept.to(self._device)], self._whole.targets(rows.numpy()), rows, unreadable)

    def _by_our_own(
        self, left: Sequence[EncodedImage], batch: EncodedBatch, images: Tensor
    ) -> Iterator[tuple[int, str]]:
        """Crops of images that the device refused go into ``images``; (place, reason) of those that nobody reads."""
        for image in left:
            data = batch.code[image.start : image.stop].numpy().tobytes()
            try:
                crop = self._dataset.crop(data, batch.augmentation, np.array(image.draws))
            except UserError as e:
                yield image.place, str(e)
            else:
                images[image.place] = torch.from_numpy(crop.copy()).to(self._device)


def _decoded_apart(codes: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """uint8 [3, H, W] of each; None for one that cannot be decoded: torchvision refuses a batch for one of its images,
    and does not say for which."""
    if not codes:
        return []
    with contextlib.suppress(torch.cuda.OutOfMemoryError), _only_errors_of_images():
        return [*_decoded(codes, device)]
    found: list[Tensor | None] = []
    for code in codes:
        found.append(None)
        with _only_errors_of_images():
            found[-1] = _decoded([code], device)[0]
    return found


@contextlib.contextmanager
def _only_errors_of_images() -> Iterator[None]:
    """Suppress what torchvision raises for an image; it has no kind of its own for that."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        pass


def _decoded(codes: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # see the module's text
        return decode_jpeg(list(codes), mode=ImageReadMode.RGB, device=device)  # pyright: ignore[reportReturnType] (of a list)


def _fits(pixels: Tensor, image: EncodedImage) -> bool:
    return tuple(pixels.shape) == (3, image.height, image.width)


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    transposed, axes = turn(orientation)
    pixels = pixels.mT if transposed else pixels
    return pixels.flip([axis + 1 for axis in axes]) if axes else pixels
