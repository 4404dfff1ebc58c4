"""Spatio-temporal patch transformers: the IDM and the FDM of `lapa`, from 5 M to 1 B parameters."""

# Shape suffixes in this file: B batch, T frames (2 for a pair), N tokens of a frame, P patches of a
# frame, L action tokens, W width, D features of a patch, H heads.

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lafp.config.ranges import check_at_least

_MLP_RATIO = 4
_EMBEDDING_STD = 0.2
_HEAD_SCALE = 0.1  # an untrained FDM predicts nearly no change, but z already gets gradients


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of one stack of blocks."""

    width: int
    """W, features of a token."""
    depth: int
    num_heads: int
    is_checkpointed: bool = False
    """Keep only each block's input for the backward pass and compute the rest again. This takes a
    third more time, and needs the memory of one block instead of all."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "depth", "num_heads")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not divide into {self.num_heads} heads.")


class Attention(nn.Module):
    """Multi-head self-attention over the second-to-last axis, with torch's fused kernels."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # No bias: the keys' bias does not affect attention, so its gradient would be noise, which
        # Adam would scale up.
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens, float [B, N, W], to tokens of the same shape."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        seen_BHND = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )
        return self.output(seen_BHND.transpose(1, 2).flatten(2))


class PairAttention(Attention):
    """Causal multi-head self-attention of each token over the two frames of a pair.

    The first frame sees itself. The second sees both, and a softmax of two scores is the sigmoid of
    their difference. So no token is moved: fused kernels want the frames as the second-to-last
    axis, are slow with so few, and on a GPU refuse more than 65,535 tokens of a batch.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps the tokens of one or two frames, float [B, T, N, W], to tokens of that shape."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        seen_BTNHD = v[:, :1]
        if tokens.shape[1] == 2:
            score_BTNH = (q[:, 1:] * (k[:, 1:] - k[:, :1])).sum(-1, keepdim=True)
            share = torch.sigmoid(score_BTNH / math.sqrt(q.shape[-1]))
            second = torch.lerp(v[:, :1], v[:, 1:], share.to(v.dtype))
            seen_BTNHD = torch.cat([v[:, :1], second], dim=1)
        return self.output(seen_BTNHD.flatten(-2))


class Block(nn.Module):
    """Pre-norm attention within each frame, optional causal attention over frames, then an MLP.

    The attention is factorised as in C-ViViT (Villegas et al., arXiv:2210.02399), which LAPA uses:
    a token attends to its frame, then to itself in earlier frames.
    """

    def __init__(self, cfg: TransformerConfig, is_temporal: bool) -> None:
        super().__init__()
        width = cfg.width
        self.spatial_norm = nn.LayerNorm(width)
        self.spatial = Attention(width, cfg.num_heads)
        self.temporal: PairAttention | None = None
        if is_temporal:
            self.temporal_norm = nn.LayerNorm(width)
            self.temporal = PairAttention(width, cfg.num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _MLP_RATIO * width),
            nn.GELU(),
        )
        self.mlp_output = nn.Linear(_MLP_RATIO * width, width)

    def last_layers(self) -> list[nn.Linear]:
        """Returns the last layer of each residual branch."""
        attentions = [a for a in (self.spatial, self.temporal) if a is not None]
        return [*(a.output for a in attentions), self.mlp_output]

    def forward(self, tokens_BTNW: Tensor) -> Tensor:
        """Maps the tokens of T frames to tokens of the same shape."""
        shape = tokens_BTNW.shape
        tokens = tokens_BTNW.flatten(0, 1)
        tokens = (tokens + self.spatial(self.spatial_norm(tokens))).view(shape)
        if self.temporal is not None:
            tokens = tokens + self.temporal(self.temporal_norm(tokens))
        return tokens + self.mlp_output(self.mlp(tokens))


class Blocks(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(self, cfg: TransformerConfig, is_temporal: bool) -> None:
        super().__init__()
        self.is_checkpointed = cfg.is_checkpointed
        self.blocks = nn.ModuleList(Block(cfg, is_temporal) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.width)

    def forward(self, tokens_BTNW: Tensor) -> Tensor:
        """Maps the tokens of T frames to tokens of the same shape."""
        for block in self.blocks:
            if self.is_checkpointed and torch.is_grad_enabled():
                tokens_BTNW = checkpoint(block, tokens_BTNW, use_reentrant=False)
            else:
                tokens_BTNW = block(tokens_BTNW)
        return self.norm(tokens_BTNW)


class PatchIdm(nn.Module):
    """Infers a latent action from the patches of two frames.

    L action tokens are added to the patches of each frame. Causal attention over time lets the
    tokens of the second frame see the first frame. Each action token of the second frame becomes
    one L-th of the latent action.
    """

    def __init__(
        self,
        cfg: TransformerConfig,
        num_patches: int,
        patch_dim: int,
        num_action_tokens: int,
        latent_action_dim: int,
    ) -> None:
        super().__init__()
        self.num_action_tokens = num_action_tokens
        self.patch_embedding = nn.Linear(patch_dim, cfg.width)
        self.positions = nn.Parameter(torch.empty(num_patches + num_action_tokens, cfg.width))
        self.times = nn.Parameter(torch.empty(2, 1, cfg.width))
        self.blocks = Blocks(cfg, is_temporal=True)
        self.head = nn.Linear(cfg.width, latent_action_dim // num_action_tokens)
        init_weights_(self)

    def forward(self, patches_BTPD: Tensor) -> Tensor:
        """Maps the patch features of two frames to z_t before any bottleneck, float [B, Z]."""
        tokens_BTNW = self._encode(patches_BTPD)
        return self.head(tokens_BTNW[:, -1, -self.num_action_tokens :]).flatten(1)

    def embed(self, patches_BPD: Tensor) -> Tensor:
        """Embeds one frame as the mean of its patch tokens and its action tokens, float [B, E].

        Attention over time is causal, so these tokens are the same as for the first frame of any
        pair.
        """
        tokens_BNW = self._encode(patches_BPD[:, None])[:, 0]
        num = self.num_action_tokens
        patches, actions = tokens_BNW[:, :-num], tokens_BNW[:, -num:]
        return torch.cat([patches.mean(1), actions.flatten(1)], dim=1)

    def _encode(self, patches_BTPD: Tensor) -> Tensor:
        patches_BTPW = self.patch_embedding(patches_BTPD)
        num_frames = patches_BTPW.shape[1]
        actions_BTLW = patches_BTPW.new_zeros(
            *patches_BTPW.shape[:2], self.num_action_tokens, patches_BTPW.shape[-1]
        )
        tokens_BTNW = torch.cat([patches_BTPW, actions_BTLW], dim=2)
        return self.blocks(tokens_BTNW + self.positions + self.times[:num_frames])


class PatchFdm(nn.Module):
    """Predicts the patches of the next frame from the patches of o_t and a latent action."""

    def __init__(
        self,
        cfg: TransformerConfig,
        num_patches: int,
        patch_dim: int,
        num_action_tokens: int,
        latent_action_dim: int,
        target_dim: int,
    ) -> None:
        super().__init__()
        self.num_patches, self.num_action_tokens = num_patches, num_action_tokens
        self.patch_embedding = nn.Linear(patch_dim, cfg.width)
        self.action_embedding = nn.Linear(latent_action_dim // num_action_tokens, cfg.width)
        self.positions = nn.Parameter(torch.empty(num_patches + num_action_tokens, cfg.width))
        self.blocks = Blocks(cfg, is_temporal=False)
        self.head = nn.Linear(cfg.width, target_dim)
        init_weights_(self)
        with torch.no_grad():
            self.head.weight *= _HEAD_SCALE

    def forward(self, patches_BPD: Tensor, latent_action: Tensor) -> Tensor:
        """Maps features of o_t's patches and z_t, float [B, Z], to float [B, P, target_dim]."""
        actions_BLD = latent_action.unflatten(1, (self.num_action_tokens, -1))
        tokens_BNW = torch.cat(
            [self.patch_embedding(patches_BPD), self.action_embedding(actions_BLD)], dim=1
        )
        tokens_BNW = self.blocks((tokens_BNW + self.positions)[:, None])[:, 0]
        return self.head(tokens_BNW[:, : self.num_patches])


@torch.no_grad()
def init_weights_(module: nn.Module) -> None:
    """Sets truncated normal weights of std 1 / sqrt(inputs), zero biases, embeddings of std 0.2.

    The last layer of every residual branch is scaled by 1 / sqrt(2 depth), as in GPT-2, so that
    the sum of the branches does not grow with the depth.
    """
    for name, parameter in module.named_parameters():
        if name in ("positions", "times"):
            nn.init.trunc_normal_(parameter, std=_EMBEDDING_STD)
    for layer in (m for m in module.modules() if isinstance(m, nn.Linear)):
        nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for blocks in (m for m in module.modules() if isinstance(m, Blocks)):
        for block in blocks.blocks:
            assert isinstance(block, Block)
            for branch in block.last_layers():
                branch.weight /= (2 * len(blocks.blocks)) ** 0.5
