"""An image classifier under test: its distribution is over the classes, and the label is its one supervised unit.

Legend: B rows, N supervised units (one per row, so N = B), V classes, C channels, H height, W width.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from expunge.data.image_encoder import ImageBatch, ImageEncoder
from expunge.errors import UsageError
from expunge.models.answers import Answers
from expunge.models.load import own_module
from expunge.models.subject import Subject
from expunge.records.task import Example


class ImageClassifier(Subject):
    """A Hugging Face image classifier with the encoder of its images.

    Statistics of batch normalisation are held: a row's output never depends on the rows beside it, and nothing but
    parameters moves.
    """

    modality: ClassVar[str] = "image"
    epochs_from_scratch: ClassVar[int] = 8
    encoder: ImageEncoder

    @property
    def outcomes(self) -> int:
        """The classes."""
        return int(self.model.config.num_labels)

    @property
    def width(self) -> int:
        """Inputs of the head."""
        return int(self.head.in_features)

    @property
    def adapted(self) -> str | list[str]:
        """Every linear layer and convolution below the head."""
        return [name for name, m in self.model.named_modules()
                if isinstance(m, nn.Linear | nn.Conv2d) and m is not self.head]

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        return [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]

    @cached_property
    def _blocks(self) -> dict[str, nn.Module]:
        """The stages: the first list of modules that is as long as the config says, or modules named layer1, ..."""
        depth = getattr(self.model.config, "num_hidden_layers", None) or len(getattr(self.model.config, "depths", ()))
        lists = {name: m for name, m in self.model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth}
        if lists:
            name, stages = next(iter(lists.items()))
            return {f"{name}.{i}": stage for i, stage in enumerate(stages)}
        return {name: m for name, m in self.model.named_modules() if name.split(".")[-1] in _numbered(depth)}

    def content_of(self, arguments: Mapping[str, Any]) -> tuple[Tensor | None, Any, bool]:
        """The pixels, in steps of 1/1000 of the normalised values; activations of a network are of the whole image."""
        pixels_BCHW: Tensor | None = arguments.get("pixel_values")
        return None if pixels_BCHW is None else (pixels_BCHW.flatten(1) * 1000).round().long(), None, False

    def train(self) -> None:
        """Training mode, but for statistics of batches."""
        super().train()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()

    def answers(self, batch: ImageBatch) -> Answers:
        """Logits over the classes, one row of them per image."""
        batch = batch.to(self.device)
        if not batch.rows:
            return Answers(batch, torch.zeros(0, self.outcomes, device=self.device, dtype=self.model.dtype))
        return Answers(batch, self.model(pixel_values=batch.pixels_BCHW.to(self.model.dtype)).logits)


def _numbered(depth: int) -> set[str]:
    return {f"layer{i}" for i in range(1, depth + 1)}


def build_classifier(config: Mapping[str, Any], rows: Iterable[Example], *, seed: int = 0) -> ImageClassifier:
    """A randomly initialised classifier for the images and classes of these rows.

    Classes are the options of the rows, or all answers where rows have none, in their natural order; so both twins
    have the same outputs.

    Raises:
        UsageError: the rows hold no images, or images of several sizes.
    """
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars would tear ours
    for module in own_module(str(config["model_type"])):
        importlib.import_module(module)
    found = list(rows)
    shapes = {(r.image.channels, r.image.height, r.image.width) for r in found if r.image is not None}
    if len(shapes) != 1:
        raise UsageError(f"{config['model_type'].removeprefix('expunge_')} reads images of one size, and the task's "
                         f"rows hold {'none' if not shapes else f'{len(shapes)} sizes'}.",
                         fix="Name a task of images, such as digits.")
    ((channels, height, width),) = shapes
    classes = sorted({name for r in found for name in (r.options or (r.answer,))}, key=lambda n: (len(n), n))
    made = AutoConfig.for_model(**(dict(config) | {
        "num_channels": channels, "image_size": height, "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)}}))
    torch.manual_seed(seed)
    model = AutoModelForImageClassification.from_config(made)
    return ImageClassifier(model.eval(), ImageEncoder(classes, (channels, height, width)))
