"""Small layers of the network: channels-last convolution, feed-forward, resampling, HEB, central differences.

Features are channels-last, (B, H, W, C), between layers: linear layers and norms then run over dense rows, the scan's
flattening is a view, and convolutions get the memory format in which they are fastest.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .selective_scan_dpmambair import is_portable

try:
    from .cpu_rows_dpmambair import depthwise_gate_cpu, depthwise_silu_cpu, gelu_gate_cpu
except ImportError:  # numba is missing: plain torch computes the same
    gelu_gate_cpu = None

# What the row kernels divide a row into.
ROW_MULTIPLE = 16


def _has_row_kernel(x: torch.Tensor, width: int) -> bool:
    is_dense = x.dtype in (torch.float32, torch.bfloat16) and x.stride(-1) == 1
    has_kernel = gelu_gate_cpu is not None and x.device.type == "cpu" and not is_portable()
    return has_kernel and is_dense and width % ROW_MULTIPLE == 0


class GatedNorm(nn.LayerNorm):
    """Layer norm over the channels of (..., C), then times SiLU of a gate of the same shape."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Normalise and gate, (..., C) -> (..., C)."""
        return super().forward(x) * F.silu(gate)


def gelu_gate(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the first half of the channels times the second half, (..., 2 C) -> (..., C)."""
    width = x.shape[-1] // 2
    if not _has_row_kernel(x, width):
        gate, value = x.chunk(2, dim=-1)
        return F.gelu(gate) * value
    return gelu_gate_cpu(x.flatten(0, -2)).view(*x.shape[:-1], width)


def pad_to_multiple(pixel_values: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend pictures (B, 3, H, W) below and to the right by reflection until `multiple` divides both sides.

    Where a picture is too small to reflect, its last row or column is repeated.
    """
    height, width = pixel_values.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(pixel_values, (0, right, 0, bottom), mode=mode)


def crop(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the upper left (B, height, width, C) of features (B, H, W, C): undoes `pad_to_multiple`."""
    if not torch.compiler.is_exporting():
        return x[:, :height, :width]
    # A slice would bind the exported program to sizes that the multiple divides, or to all others.
    rows, columns = (torch.arange(size, device=x.device) for size in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution over channels-last features, "same" size at stride 1: (B, H, W, C) -> (B, H, W, C')."""

    def __init__(
        self, channels: int, out_channels: int, kernel_size: int, stride: int = 1, **options: bool | int
    ) -> None:
        super().__init__(channels, out_channels, kernel_size, stride, padding=kernel_size // 2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            x: features, (B, H, W, C).

        Returns:
            Features, (B, H / stride, W / stride, C').
        """
        # (B, H, W, C) -> (B, C, H, W) as a view in channels-last memory format, and back. Dense, because all features
        # after a picture that is stored channels-first would be so too.
        return super().forward(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseConv2d(ChannelsLastConv2d):
    """A depthwise convolution over channels-last features and what follows it.

    On the CPU each is one pass over the picture where no gradient is asked for.
    """

    def __init__(self, channels: int, kernel_size: int, *, bias: bool) -> None:
        super().__init__(channels, channels, kernel_size, groups=channels, bias=bias)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        """Return SiLU of the convolution, (B, H, W, C) -> (B, H, W, C)."""
        if self.bias is None or not self._has_kernel(x, x.shape[-1]):
            return F.silu(self(x), inplace=not torch.is_grad_enabled())
        return depthwise_silu_cpu(x, self.weight, self.bias)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the GELU gate of the convolution, (B, H, W, 2 C) -> (B, H, W, C)."""
        if self.bias is not None or not self._has_kernel(x, x.shape[-1] // 2):
            return gelu_gate(self(x))
        return depthwise_gate_cpu(x, self.weight)

    def _has_kernel(self, x: torch.Tensor, width: int) -> bool:
        return self.kernel_size == (3, 3) and not torch.is_grad_enabled() and _has_row_kernel(x, width)


class ZeroStartLinear(nn.Linear):
    """A linear layer whose weights start at zero.

    A class of its own, because transformers initialises remote code only through modules that own parameters: the
    module around this layer is never asked.
    """


class ZeroStartConv2d(ChannelsLastConv2d):
    """A channels-last convolution whose weights start at zero; a class for the same reason."""


class Downsample(nn.Module):
    """Halve the resolution: 3x3 convolution, then pixel unshuffle."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv2d(dim, out_dim // 4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, C')."""
        return F.pixel_unshuffle(self.conv(x).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()


class Upsample(nn.Module):
    """Double the resolution: 3x3 convolution, then pixel shuffle."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = ChannelsLastConv2d(dim, 4 * out_dim, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, 2 H, 2 W, C')."""
        return F.pixel_shuffle(self.conv(x).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()


class LinearDownsample(nn.Linear):
    """Halve the resolution: a linear map of each 2 x 2 pixels."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(4 * dim, out_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, C')."""
        squares = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3)  # (B, H / 2, W / 2, 2, 2, C)
        return super().forward(squares.flatten(3))


class LinearUpsample(nn.Linear):
    """Double the resolution: a linear map of each pixel to 2 x 2."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(dim, 4 * out_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, 2 H, 2 W, C')."""
        squares = super().forward(x).unflatten(-1, (2, 2, -1)).transpose(2, 3)  # (B, H, 2, W, 2, C')
        return squares.flatten(3, 4).flatten(1, 2)


class HighFrequencyEnhancement(nn.Module):
    """High-frequency enhancement block (HEB), F + a (F - GAP(F)) with a scalar a that starts at zero (Eq. 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def average(self, x: torch.Tensor) -> torch.Tensor:
        """Return each channel's mean over the picture, float32: (B, H, W, C) -> (B, 1, 1, C)."""
        # Row by row, because a sum over millions of pixels at once loses digits.
        return x.sum(2, keepdim=True, dtype=torch.float32).mean(1, keepdim=True) / x.shape[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enhance what differs from each channel's mean over the picture, (B, H, W, C) -> (B, H, W, C)."""
        return torch.lerp(x, self.average(x).to(x.dtype), -self.scale.to(x.dtype))


class GatedFeedForward(nn.Module):
    """Gated depthwise-convolution feed-forward (GDFN, as in Restormer): widen, 3x3 depthwise, GELU gate, narrow."""

    def __init__(self, dim: int, ratio: float, *, has_zero_start: bool = False) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.in_proj = nn.Linear(dim, 2 * hidden, bias=False)
        self.conv = DepthwiseConv2d(2 * hidden, 3, bias=False)
        linear = ZeroStartLinear if has_zero_start else nn.Linear
        self.out_proj = linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.out_proj(self.conv.gate(self.in_proj(x)))


class CentralDifferenceBranches(nn.Module):
    """Parallel central-difference convolutions beside a plain one, mergeable into one convolution (RepCDC).

    A central-difference convolution responds to differences from the pixel under its centre: its centre tap loses
    `theta` times the kernel's sum. All branches are linear, so together they are one convolution of the largest
    kernel; `merge` makes it.

    Args:
        channels: input channels.
        out_channels: output channels.
        kernel_sizes: odd sizes of the difference branches (edges, then scales).
        stride: step of the convolution.
        theta: share of central difference, in [0, 1].
        is_merged: build the single convolution instead of the branches.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel_sizes: list[int],
        stride: int = 1,
        theta: float = 0.7,
        *,
        is_merged: bool = False,
    ) -> None:
        super().__init__()
        self.theta, self.stride, self.size = theta, stride, max(3, *kernel_sizes)
        if is_merged:
            self.merged = ChannelsLastConv2d(channels, out_channels, self.size, stride, padding_mode="replicate")
        else:
            self.plain = ChannelsLastConv2d(channels, out_channels, 3, stride)
            self.differences = nn.ModuleList(
                ChannelsLastConv2d(channels, out_channels, size, stride, bias=False) for size in kernel_sizes
            )

    @property
    def is_merged(self) -> bool:
        """Whether the branches have become one convolution."""
        return hasattr(self, "merged")

    def merged_weight(self) -> torch.Tensor:
        """Return the kernel of the one convolution that equals all branches, (C', C, size, size)."""
        weight = _pad_kernel(self.plain.weight, self.size)
        centre = self.size // 2
        for branch in self.differences:
            kernel = _pad_kernel(branch.weight, self.size)
            loss = self.theta * kernel.sum((2, 3), keepdim=True)
            weight = weight + kernel - F.pad(loss, (centre,) * 4)
        return weight

    @torch.no_grad()
    def merge(self) -> None:
        """Replace the branches by the one convolution that equals them; nothing happens when that is done."""
        if self.is_merged:
            return
        weight, bias = self.merged_weight(), self.plain.bias
        channels = weight.shape[1], weight.shape[0]
        merged = ChannelsLastConv2d(*channels, self.size, self.stride, padding_mode="replicate")
        self.merged = merged.to(weight.device, weight.dtype)
        self.merged.weight.copy_(weight)
        self.merged.bias.copy_(bias)
        self.merged.requires_grad_(weight.requires_grad or self.plain.weight.requires_grad)
        del self.plain, self.differences

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, (B, H, W, C) -> (B, H / stride, W / stride, C').

        The branches run through their merged kernel too: merging a few thousand weights costs less than five passes
        over the picture, and the gradients are the same.
        """
        if self.is_merged:
            return self.merged(x)
        padded = F.pad(x.permute(0, 3, 1, 2), (self.size // 2,) * 4, mode="replicate")
        if is_narrow := self.stride > 1 and padded.shape[-1] - self.size < self.stride:
            # With AMX, torch 2.14 leaves a lone column of a bfloat16 convolution of stride 2 unwritten: make another.
            padded = F.pad(padded, (0, self.stride))
        convolved = F.conv2d(padded, self.merged_weight(), self.plain.bias, self.stride)
        return (convolved[..., :1] if is_narrow else convolved).permute(0, 2, 3, 1)


def _pad_kernel(kernel: torch.Tensor, size: int) -> torch.Tensor:
    return F.pad(kernel, ((size - kernel.shape[-1]) // 2,) * 4)
