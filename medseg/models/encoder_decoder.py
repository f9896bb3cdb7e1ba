"""The nnU-Net-like network behind `unet` and `attention_unet`, made of MONAI's DynUNet blocks.

The blocks are DynUNet's, and so, with one kernel for all levels, are the numbers that come out; the frame is
our own, because DynUNet keeps the outputs of its heads as attributes (a trained network can then not be
deep-copied), lists every weight twice in its state dict (safetensors refuses that), returns deep supervision
enlarged to full resolution, and computes it outside training too.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetResBlock, UnetUpBlock
from torch import Tensor, nn

from medseg.models.attention import AttentionGate
from medseg.models.blocks import initialize, upsample
from medseg.models.grid import Grid

NORM = ("INSTANCE", {"affine": True})
ACTIVATION = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class EncoderDecoder(nn.Module):
    """U-Net with strided convolutions down, transposed convolutions up and a head per fine level.

    Args:
        in_channels: Channels of the image.
        out_channels: Classes including background.
        grid: Strides and kernels of the levels.
        features: (levels,) channels, finest first.
        residual: Residual blocks in the encoder.
        deep_supervision: Return a list while training; the two coarsest levels have no head, as in
            nnU-Net (the bottleneck has none there, and the level above it weight zero).
        dropout: Probability after each convolution before its norm; 0 builds no dropout layer.
        upsampling: "transposed" or "linear".
        is_gated: Attention gates on all skips but the finest.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Grid,
        *,
        features: Sequence[int],
        residual: bool,
        deep_supervision: bool,
        dropout: float,
        upsampling: str = "transposed",
        is_gated: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        block = UnetResBlock if residual else UnetBasicBlock
        options = {"norm_name": NORM, "act_name": ACTIVATION, "dropout": dropout or None}
        self.encoder = nn.ModuleList(
            block(grid.dims, inner, outer, kernel, stride, **options)
            for inner, outer, kernel, stride in zip(
                (in_channels, *features), features, grid.kernels, grid.strides
            )
        )
        # Finest first, as everything here. DynUNet decodes with the kernel of the level below; here each
        # level has its own, as in nnU-Net: one that keeps slices apart would else mix them on the way up.
        self.decoder = nn.ModuleList(
            UnetUpBlock(grid.dims, coarse, fine, kernel, stride, stride, **options)
            for coarse, fine, kernel, stride in zip(features[1:], features, grid.kernels, grid.strides[1:])
        )
        if upsampling != "transposed":  # which the blocks already hold
            for level, up in enumerate(self.decoder):
                steps = grid.kernels[level], grid.strides[level + 1]
                up.transp_conv = upsample(features[level + 1], features[level], *steps, kind=upsampling)
        gated = range(1, len(self.decoder)) if is_gated else range(0)
        self.gates = nn.ModuleDict(
            {
                str(level): AttentionGate(features[level], features[level + 1], grid.strides[level + 1])
                for level in gated
            }
        )
        supervised = max(1, grid.levels - 2) if deep_supervision else 1
        self.heads = nn.ModuleList(
            UnetOutBlock(grid.dims, channels, out_channels) for channels in features[:supervised]
        )
        self.apply(initialize)

    def forward(self, image_BC: Tensor) -> Tensor | list[Tensor]:
        features_BC = [image_BC]
        for stage in self.encoder:
            features_BC.append(stage(features_BC[-1]))
        below_BC = features_BC.pop()
        supervised = len(self.heads) if self.deep_supervision and self.training else 1
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            skip_BC = features_BC.pop()
            if str(level) in self.gates:
                skip_BC = self.gates[str(level)](skip_BC, below_BC)
            below_BC = self.decoder[level](below_BC, skip_BC)
            if level < supervised:
                outputs.insert(0, self.heads[level](below_BC))
        if not self.decoder:
            outputs = [self.heads[0](below_BC)]
        return outputs if self.deep_supervision and self.training else outputs[0]
