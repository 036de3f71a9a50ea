"""Sequences of different lengths in one row: padding taken out and put back, and convolutions that stay inside each."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Packed", "ShortConvolution"]


@dataclasses.dataclass
class Packed:
    """Hidden states without padding, [1, T, D] with offsets, or as they came."""

    hidden: Tensor
    cu_seqlens: Tensor | None
    indices: Tensor | None = None
    shape: tuple[int, int] | None = None

    @staticmethod
    def of(hidden: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> Packed:
        """Takes out what a mask [B, tokens] of ones and zeros marks as padding."""
        if mask is None or cu_seqlens is not None:
            return Packed(hidden, cu_seqlens)
        batch, tokens, _ = hidden.shape
        if mask.ndim != 2 or mask.shape[0] != batch or mask.shape[1] < tokens:
            raise ValueError(
                f"attention_mask: shape {tuple(mask.shape)}, must be [{batch}, {tokens} or more], 0 is padding"
            )
        mask = mask[:, -tokens:].bool()
        indices = mask.flatten().nonzero().flatten()
        offsets = F.pad(mask.sum(1).cumsum(0), (1, 0))
        return Packed(hidden.flatten(0, 1)[indices][None], offsets, indices, (batch, tokens))

    def unpacked(self, o: Tensor) -> Tensor:
        """Puts the padding back, as zeros."""
        if self.indices is None or self.shape is None:
            return o
        batch, tokens = self.shape
        rows = o.new_zeros(batch * tokens, o.shape[-1])
        return rows.index_copy(0, self.indices, o[0]).view(batch, tokens, -1)


class ShortConvolution(nn.Conv1d):
    """A causal convolution over tokens, each channel on its own, with SiLU behind it. The weight is [D, 1, size]."""

    def __init__(self, channels: int, size: int, bias: bool) -> None:
        super().__init__(channels, channels, size, groups=channels, bias=bias)

    def forward(self, x: Tensor, before: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x [B,T,D] and the `size - 1` inputs before each sequence, [N, size - 1, D]; the result, and the last ones."""
        if cu_seqlens is None:
            if before is None:
                before = x.new_zeros(x.shape[0], self.kernel_size[0] - 1, x.shape[2])
            rows = torch.cat((before.to(x.dtype), x), 1)
            return F.silu(self._over(rows)), rows[:, x.shape[1] :]
        # Every sequence gets what was before it in front; windows that begin in another one are left out.
        back, sequences = self.kernel_size[0] - 1, cu_seqlens.shape[0] - 1
        if before is None:
            before = x.new_zeros(sequences, back, x.shape[2])
        starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
        position = torch.arange(x.shape[1], device=x.device)
        sequence = torch.bucketize(position, ends, right=True)
        place = position + (sequence + 1) * back
        step = torch.arange(back, device=x.device)
        front = (starts + torch.arange(sequences, device=x.device) * back)[:, None] + step
        rows = x.new_zeros(x.shape[1] + sequences * back, x.shape[2])
        rows = rows.index_copy(0, front.flatten(), before.to(x.dtype).flatten(0, 1)).index_copy(0, place, x[0])
        last = (ends + torch.arange(sequences, device=x.device) * back)[:, None] + step
        return F.silu(self._over(rows[None])[:, place - back]), rows[last]

    def _over(self, rows: Tensor) -> Tensor:
        """The convolution of every window of rows [B,T,D]."""
        weight, bias = self.weight.to(rows.dtype), None if self.bias is None else self.bias.to(rows.dtype)
        return F.conv1d(rows.transpose(1, 2), weight, bias, groups=self.groups).transpose(1, 2)
