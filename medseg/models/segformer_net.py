"""SegFormer: Mix Transformer and all-MLP head (Xie et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.classifiers import Classifier, FineClassifier
from medseg.models.layers import Layers, channels_first, initialize, resize
from medseg.models.mix_transformer import MixTransformer


class MlpHead(nn.Module):
    """Bring the stages to one width and the first stage's grid, and fuse them (section 3.2, eq. 4).

    The published head concatenates the enlarged stages before the fusing layer. Here each stage passes its
    share of that layer before it is enlarged, and the sum is taken: the same numbers for a quarter of the
    work.

    Args:
        layers: Makes the norm.
        channels: (4,) of the stages.
        width: Of the head.
        dropout: Probability in the result.
    """

    def __init__(self, layers: Layers, channels: Sequence[int], width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(inner, width) for inner in channels)
        self.fuse = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in channels)
        self.norm = layers.make_norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, levels_BC: Sequence[Tensor]) -> Tensor:
        shape = levels_BC[0].shape[1:-1]
        shares_BC = [
            resize(channels_first(fuse(project(level_BC))), shape)
            for level_BC, project, fuse in zip(levels_BC, self.project, self.fuse)
        ]
        summed_BC: Tensor = self.norm(torch.stack(shares_BC).sum(0))
        result_BC: Tensor = self.dropout(summed_BC.relu())
        return result_BC


class SegFormer(nn.Module):
    """Give logits at the image's resolution."""

    def __init__(
        self, encoder: MixTransformer, head: MlpHead, classifier: Classifier | FineClassifier
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.classifier = classifier
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor:
        logits_BC = self.classifier(image_BC, self.head(self.encoder(image_BC)))
        return resize(logits_BC, image_BC.shape[2:])
