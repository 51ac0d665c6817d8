"""The network at a point of Know Your Neighbors (Li et al., CVPR 2024): modulation by text, linear spatial attention.

All of its arithmetic, in row-vector notation (``x W`` stands for ``nn.Linear`` with weight ``W.T``), with the published
sizes: feature F = 256, code C = 39, hidden D = 128, H = 4 heads of d = 32 channels, L labels. Float32.

Per label, once for a model (``modulation``, ``keys``):

    t[l]       = lin_in_text(text[l])                            (D)     modulation
    k[l,h,c]   = w_ks(t[l])[h d + c] / sqrt(d)                   (H, d)  keys, no bias

Per point with feature f (F), code p (C) and label l; x0 = [f, p]. The first and the third layer are affine in x0 apart
from what layer two adds, so both are one affine map of x0 (``entry``; 2 D outputs, a first, then b):

    a          = mlp_encoding_1(x0)                              (D)
    b          = mlp_encoding_3.weight[:, :F + C] x0 + bias_3    (D)     x0 comes before the hidden channels
    x1         = relu(a * t[l])
    x2         = relu(mlp_encoding_2(x1) * t[l])
    x3         = relu((b + mlp_encoding_3.weight[:, F + C:] x2) * t[l])
    x          = relu(mlp_encoding_4(x3) * t[l])                 (D)     ``hidden``

Per SET of points. A key depends on the label alone, so of all points the attention needs only, per label, the number
n[l] of valid points and the sum X[l] of their x (``LabelSums``); invalid points count nothing, with n[l] = 0 label l
drops out, and with no valid point at all M = 0:

    V[l,h,e]   = w_vs(X[l])[h d + e]                             (H, d)  sum of values, w_vs has no bias
    w[l,h,c]   = exp(k[l,h,c] - max of k[.,h,c] over labels with n > 0)
    G[h,c,e]   = sum_l w[l,h,c] V[l,h,e] / sum_l n[l] w[l,h,c]   (H, d, d)
    M[h d+c,o] = sum_e G[h,c,e] fc.weight[o, h d + e]            (D, D)  ``context``, fc has no bias

Per point again (also for invalid ones), ``answer``:

    q[h,.]     = softmax over the d channels of w_qs(x)[h,.] / sqrt(d)   no bias
    y          = q M + x                                         (D)
    raw        = lin_out(layer_norm(y))                          layer norm over D, eps 1e-6, biased variance
               = (u . y - mean(y) sum(u)) / sqrt(var(y) + 1e-6) + w . beta + bias,  w = lin_out.weight, u = w * gamma

The density is softplus(raw). This is the authors' ``VLModAttention`` with ``img_softmax_q`` attention, query residual
and mask of valid points, without a softmax over points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 1 << 14
"""Points that are worked on at a time: about 100 MB."""


class LabelSums(NamedTuple):
    """What the attention needs of a set of points: valid points per label (B, L), and the sum of x (B, L, D). float64.

    Sums of two sets add up to those of their union.
    """

    count: Tensor
    total: Tensor


class LinearAttention(nn.Module):
    """The weights of the attention by their official names; ``ModulatedMLP`` holds the arithmetic."""

    def __init__(self, size: int, heads: int, head_channels: int) -> None:
        super().__init__()
        inner = heads * head_channels
        self.heads, self.scale = heads, head_channels**-0.5
        self.w_qs, self.w_ks, self.w_vs = (nn.Linear(size, inner, bias=False) for _ in range(3))
        self.fc = nn.Linear(inner, size, bias=False)
        self.layer_norm = nn.LayerNorm(size, eps=1e-6)


class ModulatedMLP(nn.Module):
    """See the module's formulas. features, code, text: channels of the inputs; hidden, heads, head_channels: sizes."""

    def __init__(self, features: int, code: int, text: int, hidden: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.inputs = features + code
        self.lin_in_text = nn.Linear(text, hidden)
        self.mlp_encoding_1 = nn.Linear(self.inputs, hidden)
        self.mlp_encoding_2 = nn.Linear(hidden, hidden)
        self.mlp_encoding_3 = nn.Linear(self.inputs + hidden, hidden)
        self.mlp_encoding_4 = nn.Linear(hidden, hidden)
        self.point_attn = LinearAttention(hidden, heads, head_channels)
        self.lin_out = nn.Linear(hidden, 1)
        for name, layer in self.named_children():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
                nn.init.zeros_(self.get_parameter(f"{name}.bias"))

    def modulation(self, text: Tensor) -> Tensor:
        """(L, text) features of the labels to (L, D)."""
        return self.lin_in_text(text).float()

    def entry_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight (2 D, F + C) and bias (2 D) of the affine map of x0: feature columns first, then those of the code."""
        weight = torch.cat([self.mlp_encoding_1.weight, self.mlp_encoding_3.weight[:, : self.inputs]])
        return weight, torch.cat([self.mlp_encoding_1.bias, self.mlp_encoding_3.bias])

    def hidden(self, entry: Tensor, modulation: Tensor) -> Tensor:
        """x. entry: (..., 2 D); modulation: (..., D) of each point's label."""
        a, b = entry.chunk(2, dim=-1)
        x = functional.relu(a * modulation)
        x = functional.relu(self.mlp_encoding_2(x) * modulation)
        x = functional.relu((b + functional.linear(x, self.mlp_encoding_3.weight[:, self.inputs :])) * modulation)
        return functional.relu(self.mlp_encoding_4(x) * modulation)

    def sums(self, hidden: Tensor, labels: Tensor, valid: Tensor, count: int) -> LabelSums:
        """hidden: (B, G, K, D), groups of points that share label (B, G) and validity (B, G); count: labels L."""
        member = functional.one_hot(labels, count) * valid.unsqueeze(-1)
        with torch.autocast(hidden.device.type, enabled=False):
            total = member.to(torch.float32).transpose(1, 2) @ hidden.float().sum(dim=2)
        return LabelSums((member.sum(dim=1) * hidden.shape[2]).double(), total.double())

    def context(self, sums: LabelSums, modulation: Tensor) -> Tensor:
        """M of a set: (B, D, D)."""
        attention, heads = self.point_attn, (self.point_attn.heads, -1)
        with torch.autocast(modulation.device.type, enabled=False):
            keys = functional.linear(modulation, attention.w_ks.weight) * attention.scale
            values = functional.linear(sums.total, attention.w_vs.weight.double()).unflatten(-1, heads)
        keys = keys.unflatten(-1, heads).double()
        keys = keys.masked_fill((sums.count == 0)[..., None, None], torch.finfo(torch.float64).min)
        weights = torch.exp(keys - keys.amax(dim=1, keepdim=True))
        # Wherever a point is valid its label's weight makes this 1 or more; without one the values are 0 anyway.
        norm = torch.einsum("bl,blhc->bhc", sums.count, weights).clamp(min=1)
        mean = torch.einsum("blhc,blhe->bhce", weights, values) / norm.unsqueeze(-1)
        merged = torch.einsum("bhce,ohe->bhco", mean, attention.fc.weight.double().unflatten(1, heads))
        return merged.flatten(1, 2).float()

    def answer(self, hidden: Tensor, context: Tensor) -> Tensor:
        """raw of (B, N, D) points in the context (B, D, D) of their set: (B, N), before softplus."""
        attention = self.point_attn
        queries = (attention.w_qs(hidden) * attention.scale).unflatten(-1, (attention.heads, -1))
        x = queries.softmax(dim=-1).flatten(-2) @ context + hidden
        return self.lin_out(attention.layer_norm(x))[..., 0].float()

    def forward(
        self,
        entry: Callable[[slice], Tensor],
        labels: Tensor,
        valid: Tensor,
        modulation: Tensor,
        samples: int = 1,
        groups_per_call: int | None = None,
    ) -> Tensor:
        """raw of a set of points, in two passes over parts of it: sums, then answers. (B, G, K), float32.

        entry: a part of the G groups to its (B, g, K, 2 D) entries; labels: (B, G) int64; valid: (B, G) bool;
        modulation: (L, D); samples: K points of a group, which share label and validity. All groups are one set; with
        ``groups_per_call`` consecutive ones of so many are sets of their own. Where gradients are recorded, memory
        grows with the number of points, else it does not.
        """
        groups = labels.shape[1]
        size, answers = groups_per_call or max(groups, 1), []
        for start in range(0, groups, size):
            stop = min(start + size, groups)
            answers.append(self._one_set(entry, labels, valid, modulation, max(1, CHUNK // samples), start, stop))
        if not answers:
            return modulation.new_zeros(len(labels), 0, samples)
        return torch.cat(answers, dim=1)

    def _one_set(
        self,
        entry: Callable[[slice], Tensor],
        labels: Tensor,
        valid: Tensor,
        modulation: Tensor,
        step: int,
        start: int,
        stop: int,
    ) -> Tensor:
        parts = [slice(first, min(first + step, stop)) for first in range(start, stop, step)]

        def hidden(part: slice) -> Tensor:
            return self.hidden(entry(part), modulation[labels[:, part]].unsqueeze(2))

        kept, found = [], []
        for part in parts:
            x = hidden(part)
            found.append(self.sums(x, labels[:, part], valid[:, part], len(modulation)))
            if len(parts) == 1 or torch.is_grad_enabled():
                kept.append(x)
        sums = LabelSums(sum(each.count for each in found), sum(each.total for each in found))
        context = self.context(sums, modulation)
        answers = []
        for index, part in enumerate(parts):
            x = kept[index] if kept else hidden(part)
            answers.append(self.answer(x.flatten(1, 2), context).view(x.shape[:3]))
        return torch.cat(answers, dim=1)
