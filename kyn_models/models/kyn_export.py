"""Know Your Neighbors in two exact pieces for robots: an image network and constants of what follows at a point. torch.

Everything linear in the sampled fused feature is merged before sampling: the fuser's second convolution, the first
layer of the point network, and the part of its third layer that sees the feature again. Text is gone: modulation, keys
and the classifier of LSeg are numbers per label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from kyn_models.models.kyn import Encoder, Kyn
    from kyn_models.networks.modulation import ModulatedMLP


class KynMaps(nn.Module):
    """Image network of a deployed model. network: the encoder; text: (L, channels) features of the labels; linear:
    (2 hidden, fused) weight that is applied to fused features.
    """

    text: Tensor

    def __init__(self, network: Encoder, text: Tensor, linear: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("text", text)
        second = network.fuser.fused_reg[2]
        assert isinstance(second, nn.Conv2d)
        self.merged = nn.Conv2d(second.in_channels, len(linear), 1, bias=False)
        with torch.no_grad():
            self.merged.weight.copy_((linear.double() @ second.weight[:, :, 0, 0].double())[:, :, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(1, H, W, 3) uint8 to (1, H, W, 2 hidden) pre-activations without bias and (1, H, W) uint8 labels."""
        planes, labels = self.maps(image)
        return planes.permute(0, 2, 3, 1), labels.to(torch.uint8)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same as (1, 2 hidden, H, W), in the precision of the weights, and (1, H, W) int64."""
        # TensorRT can do nothing with 8-bit numbers but widen them: that comes first.
        pixels = image.float().permute(0, 3, 1, 2) / 255
        language = self.network.vlseg_encoder(pixels * 2 - 1, self.text)
        hidden = self.network.fuser.hidden(self.network.vision_encoder(pixels), language.features)
        return self.merged(hidden), language.logits.argmax(dim=1)


def export_kyn(model: Kyn) -> tuple[KynMaps, dict[str, Tensor]]:
    """See ``Kyn.exportable``."""
    config, mlp = model.config, model.mlp_coarse
    weight, bias = (value.double() for value in mlp.entry_parameters())
    linear, second = weight[:, : config.fused], model.encoder.fuser.fused_reg[2]
    constants = {
        "w_code": weight[:, config.fused :],
        "bias": bias + linear @ second.bias.double(),
        "freqs": model.code_xyz.frequencies,
        "z_near": torch.tensor(config.z_near),
        "z_far": torch.tensor(config.z_far),
    }
    network = KynMaps(model.encoder, model.text_features, linear)
    network.eval()
    rounded = {name: value.detach().float() for name, value in constants.items()}
    return network, rounded | point_constants(mlp, model.text_features)


def point_constants(mlp: ModulatedMLP, text: Tensor) -> dict[str, Tensor]:
    """Constants of the point network after its entry, for labels of (L, channels) text features; see
    ``KynConstants``."""
    attention, norm, output = mlp.point_attn, mlp.point_attn.layer_norm, mlp.lin_out
    modulation = mlp.modulation(text).double()
    w_out = (output.weight[0] * norm.weight).double()
    constants = {
        "modulation": modulation,
        "keys": modulation @ attention.w_ks.weight.double().T * attention.scale,
        "w_2": mlp.mlp_encoding_2.weight,
        "b_2": mlp.mlp_encoding_2.bias,
        "w_3": mlp.mlp_encoding_3.weight[:, mlp.inputs :],
        "w_4": mlp.mlp_encoding_4.weight,
        "b_4": mlp.mlp_encoding_4.bias,
        "w_query": attention.w_qs.weight * attention.scale,
        "w_value": attention.w_vs.weight,
        "w_context": attention.fc.weight,
        # A constant added to all units changes nothing after the layer norm has taken their mean away.
        "w_out": w_out - w_out.mean(),
        "b_out": output.weight[0] @ norm.bias + output.bias[0],
        "epsilon": torch.tensor(norm.eps),
    }
    rounded = {name: value.detach().float() for name, value in constants.items()}
    return rounded | {"heads": torch.tensor(attention.heads)}
