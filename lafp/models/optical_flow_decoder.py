"""The decoder of `laof`, which maps z_t to optical flow."""

# Shape suffixes in this file: B batch, C channels, Z latent action.

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH = 64


class OpticalFlowDecoder(nn.Module):
    """A linear map to a coarse grid, then upsampling with two convolutions to the stored size.

    The decoder reads only the latent action, so that z must hold everything about the motion.
    """

    def __init__(self, latent_action_dim: int, height_px: int, width_px: int) -> None:
        super().__init__()
        self.size_px = (height_px, width_px)
        self._middle_px = (-(-height_px // 2), -(-width_px // 2))
        self._grid = (-(-height_px // 4), -(-width_px // 4))
        self.grid = nn.Linear(latent_action_dim, _WIDTH * self._grid[0] * self._grid[1])
        self.middle = nn.Conv2d(_WIDTH, _WIDTH // 2, 3, padding=1)
        self.output = nn.Conv2d(_WIDTH // 2, 2, 3, padding=1)

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Maps z, float [B, Z], to optical flow, float [B, 2, height_px, width_px].

        Its unit is the data's typical optical flow.
        """
        features = F.silu(self.grid(latent_BZ)).view(-1, _WIDTH, *self._grid)
        features = F.silu(self.middle(F.interpolate(features, size=self._middle_px)))
        return self.output(F.interpolate(features, size=self.size_px))
