"""A small convolutional classifier, as a transformers model: the test bed of image tasks.

Legend: B rows, C channels, H height, W width, D hidden size, V classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class CNNConfig(PretrainedConfig):
    """Sizes of the network.

    Args:
        num_channels, image_size: of the images it reads.
        widths: channels of each stage; every stage halves height and width.
        hidden_size: of the layer below the head.
    """

    model_type = "expunge_cnn"

    def __init__(self, num_channels: int = 1, image_size: int = 8, widths: tuple[int, ...] | list[int] = (16, 32),
                 hidden_size: int = 64, **kwargs: Any) -> None:
        self.num_channels, self.image_size = num_channels, image_size
        self.widths, self.hidden_size = list(widths), hidden_size
        self.num_hidden_layers = len(self.widths)
        super().__init__(**kwargs)


class ConvStage(nn.Module):
    """Convolution 3x3, group normalisation, ReLU, and the largest of every 2x2 pixels.

    Groups, not batches, are normalised: then no row's output depends on the rows beside it.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=1)
        self.norm = nn.GroupNorm(min(4, width), width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found: Tensor = nn.functional.max_pool2d(self.norm(self.conv(x_BCHW)).relu(), 2)
        return found


class CNN(PreTrainedModel):  # type: ignore[misc, no-any-unimported, unused-ignore]
    """Stages, one hidden layer, and a head."""

    config_class = CNNConfig
    base_model_prefix = "cnn"
    main_input_name = "pixel_values"

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        inputs = [config.num_channels, *config.widths]
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in zip(inputs, config.widths, strict=False))
        side = config.image_size // 2 ** len(config.widths)
        self.hidden = nn.Linear(config.widths[-1] * side * side, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution: what turns pixels into channels."""
        return self.stages[0].conv  # type: ignore[no-any-return, union-attr, return-value, unused-ignore]

    def _init_weights(self, module: nn.Module) -> None:
        """As PyTorch's layers initialise themselves."""
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        x_BCHW = pixel_values
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
        return ImageClassifierOutput(logits=self.classifier(self.hidden(x_BCHW.flatten(1)).relu()))


AutoConfig.register(CNNConfig.model_type, CNNConfig)
AutoModelForImageClassification.register(CNNConfig, CNN)
