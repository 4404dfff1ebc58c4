"""Measures the use of a codebook in one batch: perplexity, and the share of codes in use."""

# Shape suffixes in this file: N codebooks, K codes, P positions (batch x discrete latents).

import torch
from torch import Tensor


def usage_of_counts(counts_NK: Tensor) -> dict[str, Tensor]:
    """Computes the perplexity, averaged over codebooks, and the share of codes in use.

    The perplexity of a single choice is NaN, because one choice shows no spread.
    """
    num_choices_N1 = counts_NK.sum(-1, keepdim=True)
    shares_NK = counts_NK / num_choices_N1
    perplexity = (-(shares_NK * shares_NK.clamp_min(1e-10).log()).sum(-1)).exp().mean()
    return {
        "codebook/perplexity": torch.where(num_choices_N1.max() > 1, perplexity, torch.nan),
        "codebook/usage": (counts_NK > 0).float().mean(),
    }


def usage_of_choices(indices_P: Tensor, num_codes: int) -> dict[str, Tensor]:
    """Computes ``usage_of_counts`` of one codebook from the indices of the chosen codes.

    No tensor has the size of the codebook, because a codebook may have more codes than fit into
    memory. An invalid index, which NaN latents produce, counts as one more code.
    """
    # Chosen codes are counted, not all codes: an FSQ bottleneck may have more than memory holds.
    sorted_P = indices_P.sort().values
    count_P = torch.searchsorted(sorted_P, sorted_P, right=True) - torch.searchsorted(
        sorted_P, sorted_P
    )
    entropy = -(count_P / len(indices_P)).log().mean()
    return {
        "codebook/perplexity": entropy.exp() if len(indices_P) > 1 else entropy * torch.nan,
        "codebook/usage": (1 / count_P).sum() / num_codes,
    }
