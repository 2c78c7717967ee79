"""ResNet-20 for small images (He et al., arXiv 1512.03385, section 4.2), as a transformers model.

Its modules are named as in akamaster/pytorch_resnet_cifar10, whose weights for CIFAR-10 `from_cifar10` reads.

Legend: B rows, C channels, H height, W width, V classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from expunge.errors import DataError, MissingError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the published weights were trained with."""


class SmallResNetConfig(PretrainedConfig):
    """Sizes of the network.

    Args:
        depth: convolutional layers on the longest way, 6 n + 2: 20, 32, 44, 56.
        norm: "batch", as published: its statistics are never updated here, since a row's output must not depend on the
            rows beside it; or "group", for training from scratch.
    """

    model_type = "expunge_resnet"

    def __init__(self, num_channels: int = 3, image_size: int = 32, depth: int = 20, norm: str = "group",
                 **kwargs: Any) -> None:
        self.num_channels, self.image_size, self.depth, self.norm = num_channels, image_size, depth, norm
        self.num_hidden_layers = 3
        super().__init__(**kwargs)


class Block(nn.Module):
    """Two convolutions beside a shortcut, which drops every second pixel and pads channels where sizes change."""

    def __init__(self, inputs: int, width: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.stride, self.pad = stride, (width - inputs) // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        beside = F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(found + beside)


class SmallResNet(PreTrainedModel):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Three stages of blocks, the mean over all pixels, and a head."""

    config_class = SmallResNetConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"

    def __init__(self, config: SmallResNetConfig) -> None:
        super().__init__(config)

        def norm(width: int) -> nn.Module:
            return nn.BatchNorm2d(width) if config.norm == "batch" else nn.GroupNorm(8, width)

        def stage(inputs: int, width: int, stride: int) -> nn.Sequential:
            strides = [stride] + [1] * ((config.depth - 2) // 6 - 1)
            return nn.Sequential(*(Block(inputs if i == 0 else width, width, s, norm) for i, s in enumerate(strides)))

        self.conv1 = nn.Conv2d(config.num_channels, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        self.layer1, self.layer2, self.layer3 = stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2)
        self.linear = nn.Linear(64, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution: what turns pixels into channels."""
        return self.conv1

    def _init_weights(self, module: nn.Module) -> None:
        """Kaiming's, as published."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        x_BCHW = F.relu(self.bn1(self.conv1(pixel_values)))
        x_BCHW = self.layer3(self.layer2(self.layer1(x_BCHW)))
        return ImageClassifierOutput(logits=self.linear(x_BCHW.mean((2, 3))))


def from_cifar10(path: str | Path) -> SmallResNet:
    """The published weights (a file such as resnet20-12fca82f.th) as a model of this class.

    Raises:
        MissingError: there is no such file.
        DataError: it holds other weights.
    """
    if not Path(path).is_file():
        raise MissingError(f"There are no weights at {path}.", fix="Give the file of pytorch_resnet_cifar10.")
    found = torch.load(path, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in found.get("state_dict", found).items()}
    depth = 2 + 2 * sum(name.endswith("conv1.weight") for name in state if name.startswith("layer"))
    model = SmallResNet(SmallResNetConfig(norm="batch", depth=depth, id2label=dict(enumerate(CIFAR10)),
                                label2id={name: i for i, name in enumerate(CIFAR10)}))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{path} does not hold the weights of a ResNet for CIFAR-10.",
                        str(error).splitlines()[-1].strip()[:200]) from None
    return model.eval()


AutoConfig.register(SmallResNetConfig.model_type, SmallResNetConfig)
AutoModelForImageClassification.register(SmallResNetConfig, SmallResNet)
