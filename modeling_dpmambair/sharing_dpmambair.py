"""What the network takes from a whole picture, for a network that sees it tile by tile: HEB's means, scan states."""

import copy
import itertools

import torch
from torch import nn

from .layers_dpmambair import HighFrequencyEnhancement
from .modeling_dpmambair import DPMambaIRModel
from .prompt_scan_dpmambair import PromptedScan
from .selective_scan_dpmambair import ScanPrompts, prompted_selective_scan
from .tiles_dpmambair import Tile

# Before the softplus: makes steps of about 1e-7, which neither decay the state nor leave float32.
ALMOST_NO_STEP = -16.0


class PictureEnhancement(nn.Module):
    """HEB of tiles around the means of the picture.

    Without means it takes those of the tile, as HEB does of a picture; and it always measures them.
    """

    def __init__(self, heb: HighFrequencyEnhancement) -> None:
        super().__init__()
        self.scale = heb.scale
        self.tile: Tile | None = None
        self.mean: torch.Tensor | None = None
        self.sum: torch.Tensor | float = 0.0
        self.count = 0

    def measure(self) -> torch.Tensor:
        """Return the means of all that the tiles have shown since the last call, (B, C)."""
        mean, self.sum, self.count = self.sum / self.count, 0.0, 0
        return mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Enhance what differs from the means, (B, H, W, C) -> (B, H, W, C)."""
        inner = x[:, self.tile.rows.inner(x.shape[1]), self.tile.columns.inner(x.shape[2])]
        self.sum = self.sum + inner.sum((1, 2), dtype=torch.float32)
        self.count += inner.shape[1] * inner.shape[2]
        mean = x.mean((1, 2), keepdim=True) if self.mean is None else self.mean[:, None, None].to(x.dtype)
        return torch.lerp(x, mean, -self.scale.to(x.dtype))


class PictureScan(nn.Module):
    """A scan through tiles as wide as the picture that goes on where the tile above left off.

    A tile takes over two states: at its first row, and again at its seam, because its first rows suffer from the cut.
    """

    def __init__(self, scan: PromptedScan) -> None:
        super().__init__()
        self.scan = scan
        self.tile: Tile | None = None
        # Of the tile that comes next, by its rows.
        self.states: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor, gate: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Scan row-major, as `PromptedScan` does."""
        (height, width), rows = x.shape[1:3], self.tile.rows
        enter, leave, following = (rows.scale(row, height) for row in (rows.enter, rows.leave, rows.following))
        u, dt, B, C = (each.float() if each.dtype == torch.float16 else each for each in self.scan.project(x))
        prompts = self.scan.compute_prompts(embedding)
        B, C = ((each * prompt[:, None]).to(u.dtype) for each, prompt in ((B, prompts.B), (C, prompts.C)))
        A, above, state, parts = -torch.exp(self.scan.A_log.float()), self.states, None, []
        self.states = {}
        for start, stop in itertools.pairwise(sorted({0, enter, following, leave, height})):
            sequences = (each[:, start * width : stop * width] for each in (u, dt, B, C))
            part, state = self._scan_from(above.get(start, state), *sequences, A=A, alpha=prompts.delta)
            parts.append(part)
            if stop in (following, leave):
                self.states[stop - following] = state
        return self.scan.norm(torch.cat(parts, 1).to(x.dtype).view_as(x), gate)

    def _scan_from(
        self,
        state: torch.Tensor | None,
        u: torch.Tensor,
        dt: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        *,
        A: torch.Tensor,
        alpha: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scan a sequence from a state, and return its outputs and the state behind it, (B, D, N).

        The state enters by N steps of almost no length, each of which adds one column, and N more read it out.
        """
        N, bias = A.shape[1], self.scan.dt_proj.bias.float()
        basis = torch.eye(N, dtype=u.dtype, device=u.device).expand(len(u), -1, -1)
        still = (ALMOST_NO_STEP - bias).to(u.dtype).expand(len(u), N, -1)
        step = nn.functional.softplus(still.float() + bias) * alpha[:, None]
        none = torch.zeros_like(still)
        added = none if state is None else (state.transpose(1, 2) / step).to(u.dtype)
        ones = torch.ones(len(u), N, device=u.device)
        y = prompted_selective_scan(
            torch.cat([added, u, none], 1),
            torch.cat([still, dt, still], 1),
            A,
            torch.cat([basis, B, basis], 1),
            torch.cat([basis, C, basis], 1),
            self.scan.D.float(),
            dt_bias=bias,
            prompts=ScanPrompts(alpha, ones, ones),
            discretization=self.scan.discretization,
        )
        return y[:, N:-N], y[:, -N:].transpose(1, 2).float()


class PictureView:
    """A model that sees a picture tile by tile, on the weights of another.

    Args:
        model: owner of the weights; it stays as it is, and may be used meanwhile.
        is_carried: whether the tiles are as wide as the picture and come from top to bottom, so that scans go on.
    """

    def __init__(self, model: DPMambaIRModel, is_carried: bool) -> None:
        self.model = copy.deepcopy(model, {id(each): each for each in (*model.parameters(), *model.buffers())})
        self.enhancements: list[PictureEnhancement] = []
        self.scans: list[PictureScan] = []
        for module in list(self.model.network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, HighFrequencyEnhancement):
                    self.enhancements.append(PictureEnhancement(child))
                    setattr(module, name, self.enhancements[-1])
                elif isinstance(child, PromptedScan) and is_carried and not child.is_reversed:
                    self.scans.append(PictureScan(child))
                    setattr(module, name, self.scans[-1])

    def begin(self) -> None:
        """Go back to the top of the picture."""
        for scan in self.scans:
            scan.states = {}

    def look_at(self, tile: Tile) -> None:
        """Say which tile comes next."""
        for part in (*self.enhancements, *self.scans):
            part.tile = tile

    def measure_means(self) -> list[torch.Tensor]:
        """Return each enhancement's means of what was seen since the last call, (B, C)."""
        return [each.measure() for each in self.enhancements]

    def set_means(self, means: list[torch.Tensor]) -> None:
        """Fix the means around which the picture is enhanced."""
        for each, mean in zip(self.enhancements, means, strict=True):
            each.mean = mean


__all__ = ["PictureEnhancement", "PictureScan", "PictureView"]
