"""torch's own Transformer encoder with LayerNorm before or behind each sublayer, and a mask for padded rows.

``norm_first=True``: x + f(LN(x)) (Pre-LN, Xiong et al. 2020, arXiv 2002.04745); ``False``: LN(x + f(x)) (Post-LN,
Vaswani et al. 2017, arXiv 1706.03762).
"""

import torch
from torch import Tensor, nn

from export import export_model


class Encoder(nn.Module):
    """Learned positions, two layers, a head."""

    def __init__(self, *, norm_first: bool, d_model: int = 16, longest: int = 32) -> None:
        super().__init__()
        self.position = nn.Parameter(0.1 * torch.randn(longest, d_model))
        layer = nn.TransformerEncoderLayer(
            d_model, nhead=2, dim_feedforward=32, batch_first=True, norm_first=norm_first
        )
        # Nested tensors answer zeros where a row is padded, and only in eval mode.
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.head = nn.Linear(d_model, 4)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """(N, T, d_model), and (N, T) that is True where a row has ended -> (N, T, 4)."""
        y = self.encoder(x + self.position[: x.shape[1]], src_key_padding_mask=padding)
        return self.head(y)  # type: ignore[no-any-return]


def build(*, norm_first: bool = True) -> nn.Module:
    """The model, with random weights in place of trained ones."""
    torch.manual_seed(0)
    return Encoder(norm_first=norm_first)


def build_post_ln() -> nn.Module:
    """The same with the norm behind."""
    return build(norm_first=False)


def example() -> dict[str, Tensor]:
    """Three rows, of which two have ended before the last position."""
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])  # (3, 6)
    return {"x": torch.randn(3, 6, 16), "padding": padding}


if __name__ == "__main__":
    export_model(build(), example(), name="transformer-encoder")
