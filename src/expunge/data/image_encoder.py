"""Rows of images to batches of pixels. The right answer of an image is the name of its class.

Legend: B rows, N supervised units (one per row, so N = B), C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.data.encoder import Count
from expunge.errors import DataError
from expunge.records.base import fingerprint, read_json, write_json
from expunge.records.prompt import PromptFormat
from expunge.records.task import Example

VALUES = 1 << 20
"""Pixel values per batch of rows: bounds memory whatever the size of the images."""
ROWS = 256
"""Rows per batch at most, so that small images do not make one huge batch."""
FILE = "preprocessor_config.json"


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image as the task holds it, and the number of its class; -1 where the model has no class of that name."""

    id: str
    pixels: bytes
    shape: tuple[int, int, int]
    label: int
    truncated: bool = False

    @property
    def key(self) -> str:
        """Content hash: what cached reference values are filed under."""
        about = f"{self.shape}{self.label}".encode()
        return hashlib.blake2b(about + self.pixels, digest_size=12).hexdigest()

    @property
    def supervised(self) -> int:
        """The label is the one supervised unit."""
        return int(self.label >= 0)

    @property
    def end(self) -> int:
        """Nothing closes a label."""
        return 0


@dataclass(frozen=True)
class ImageBatch:
    """Normalised pixels of rows of equal size. Made by `ImageEncoder.collate`."""

    rows: tuple[ImageRow, ...]
    pixels_BCHW: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        return self.pixels_BCHW.device

    @cached_property
    def row_N(self) -> Tensor:
        """Which row each label belongs to: its own."""
        return torch.arange(len(self.rows), device=self.device)

    @cached_property
    def target_N(self) -> Tensor:
        """The labels."""
        return torch.tensor([r.label for r in self.rows], dtype=torch.long, device=self.device)

    def count(self, over: Count) -> int:
        """One unit per row, whatever is counted."""
        return len(self.rows)

    def to(self, device: torch.device) -> ImageBatch:
        return self if self.device == device else ImageBatch(self.rows, self.pixels_BCHW.to(device))


class ImageEncoder:
    """Turns examples with an image into rows, and rows into normalised pixels of the size the model reads.

    Args:
        classes: their names, in the order of the model's outputs.
        shape: channels, height and width that the model reads. Images of another size are resized (bilinear, with
            anti-aliasing); a grey image is repeated for every channel.
        mean, std: per channel, of pixels scaled to 0..1; one number stands for all channels.
    """

    def __init__(self, classes: Sequence[str], shape: tuple[int, int, int], mean: Sequence[float] = (0.5,),
                 std: Sequence[float] = (0.5,)) -> None:
        self.classes, self.shape = tuple(classes), shape
        self.mean, self.std = tuple(mean), tuple(std)
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    @classmethod
    def read(cls, folder: str | Path, config: Any) -> ImageEncoder:
        """That of a model folder: class names and size from its config, mean and deviation from its preprocessor."""
        names = [str(config.id2label[i]) for i in range(config.num_labels)]
        path = Path(folder) / FILE
        known: Mapping[str, Any] = read_json(path) if path.exists() else {}
        size = known.get("crop_size") or known.get("size") or getattr(config, "image_size", None)
        if size is None:
            raise DataError(f"{folder} does not say how large its images are.",
                            f"Neither its config nor {FILE} names a size.")
        if isinstance(size, Mapping):
            size = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
        height, width = (size, size) if isinstance(size, int) else size
        plain = known.get("do_normalize", True) and "image_mean" in known
        return cls(names, (int(getattr(config, "num_channels", 3)), int(height), int(width)),
                   known["image_mean"] if plain else (0.0,), known["image_std"] if plain else (1.0,))

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> ImageRow:
        """The image with its class, or with another one in its place. Raises DataError for a row without an image."""
        image = example.image
        if image is None:
            raise DataError(f"Row {example.id} holds no image, and this model reads nothing else.",
                            fix="Name a task of images, such as digits, or a language model.")
        return ImageRow(example.id, image.pixels, (image.channels, image.height, image.width),
                        self._numbers.get(example.answer if answer is None else answer, -1))

    def collate(self, rows: Sequence[ImageRow]) -> ImageBatch:
        """Normalised pixels, shape B C H W. Raises DataError for a row whose class the model does not have."""
        for row in rows:
            if row.label < 0:
                raise DataError(f"Row {row.id} has a class that the model does not have.",
                                f"It knows {', '.join(self.classes[:20])}.")
        parts = [self._pixels([r for r in rows if r.shape == shape], shape)
                 for shape in dict.fromkeys(r.shape for r in rows)]
        if not parts:
            return ImageBatch((), torch.zeros(0, *self.shape))
        if len(parts) == 1:
            return ImageBatch(tuple(rows), parts[0])
        queues = {shape: iter(part) for shape, part in
                  zip(dict.fromkeys(r.shape for r in rows), parts, strict=True)}
        return ImageBatch(tuple(rows), torch.stack([next(queues[r.shape]) for r in rows]))

    def _pixels(self, rows: Sequence[ImageRow], shape: tuple[int, int, int]) -> Tensor:
        found = torch.frombuffer(bytearray(b"".join(r.pixels for r in rows)), dtype=torch.uint8)
        pixels_BCHW = found.view(len(rows), *shape).float() / 255
        if shape[1:] != self.shape[1:]:
            pixels_BCHW = F.interpolate(pixels_BCHW, self.shape[1:], mode="bilinear", antialias=True)
        if shape[0] != self.shape[0]:
            pixels_BCHW = pixels_BCHW.expand(-1, self.shape[0], -1, -1)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (pixels_BCHW - mean) / std

    def concat(self, batches: Sequence[ImageBatch]) -> ImageBatch:
        """One batch of all rows."""
        return ImageBatch(tuple(r for b in batches for r in b.rows), torch.cat([b.pixels_BCHW for b in batches]))

    def batches(self, rows: Sequence[ImageRow], chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Indices in their order, at most `ROWS` of them and `VALUES` pixel values a batch."""
        left = list(range(len(rows)) if chosen is None else chosen)
        channels, height, width = self.shape
        most = max(min(ROWS, VALUES // (channels * height * width)), 1)
        for start in range(0, len(left), most):
            yield left[start: start + most]

    def check(self, rows: Sequence[ImageRow], config: Any, what: str) -> list[DataError]:
        """Why these rows cannot go through a model of this config; empty when they can."""
        found = []
        lost = [r.id for r in rows if r.label < 0]
        if lost:
            found.append(DataError(f"{len(lost)} {what} rows have a class that the model does not have, such as "
                                   f"{lost[0]}.", f"It knows {', '.join(self.classes[:20])}.",
                                   "Name a model that was trained for these classes."))
        odd = [r for r in rows if r.shape[0] not in (1, self.shape[0])]
        if odd:
            found.append(DataError(f"{len(odd)} {what} rows have {odd[0].shape[0]} channels, such as {odd[0].id}; the "
                                   f"model reads {self.shape[0]}."))
        return found

    def check_alternatives(self, rows: Sequence[ImageRow], config: Any, what: str) -> list[DataError]:
        """The same: every other answer is the name of a class too."""
        return self.check(rows, config, what)

    def describe(self, rows: Sequence[Example]) -> PromptFormat:
        """Images are asked as they are."""
        first = f"{'x'.join(map(str, self.encode(rows[0]).shape))} pixels [[{rows[0].answer}]]" if rows else ""
        return PromptFormat(format="none: the rows are images", first_row=first, encoder=self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for encoders that make equal rows of equal examples."""
        return fingerprint([self.classes, self.shape, self.mean, self.std])

    def save(self, folder: Path) -> None:
        """What transformers' image processors read too; class names are in the model's config."""
        _, height, width = self.shape
        write_json(Path(folder) / FILE, json.loads(json.dumps({
            "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_resize": True,
            "image_mean": self.mean, "image_std": self.std, "size": {"height": height, "width": width}})))
