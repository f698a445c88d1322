"""Which operators cost alike, by their names: what one measured figure stands for.

Names only, as `work.Call` has them; torch is not known. `layers` measures a figure for each family.
"""

from __future__ import annotations

FORWARD, INPUT, WEIGHT = "forward", "input's gradient", "weight's gradient"
"""Of a convolution, the three that are computed."""
SIDES, FIRST_CHANNELS = (8, 32), 2
"""Of the pictures that are convolved, and channels of those that come in first: photographs have 3."""


def convolving(what: str, side: int, is_first: bool) -> str:
    """The name of a convolution's figures, 3 × 3, by the side of its pictures: of c channels to c, or of few to c."""
    return f"{what}, {side} × {side}{', first' * is_first}"


CONVOLUTIONS = frozenset(
    ("convolution", "_convolution", "convolution_overrideable", "_slow_conv2d_forward", "mkldnn_convolution")
)
CONVOLUTIONS_BACK = frozenset(("convolution_backward",))
CELLS = frozenset(("mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"))
"""All steps of an LSTM's layer in one call."""
ATTENTION = frozenset(
    ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
)
BATCHED = frozenset(("bmm", "baddbmm"))
"""Many small products in one call."""

SOFTMAX, BATCH_NORM, LAYER_NORM = "softmax", "batch norm", "layer norm"
RANDOM, POOL, GELU, TANH = "random", "max pool", "gelu", "tanh"
FUNCTIONS: dict[str, frozenset[str]] = {
    SOFTMAX: frozenset(
        ("_softmax", "_safe_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data")
    ),
    BATCH_NORM: frozenset(
        ("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "native_batch_norm_backward")
    ),
    LAYER_NORM: frozenset(
        ("native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward")
    ),
    RANDOM: frozenset(("bernoulli_", "bernoulli", "native_dropout", "normal_", "uniform_", "rand_like", "randn_like")),
    POOL: frozenset(("max_pool2d_with_indices", "max_pool2d_with_indices_backward")),
    GELU: frozenset(("gelu", "gelu_backward", "erf", "pow", "log", "logsumexp")),
    TANH: frozenset(
        ("tanh", "sigmoid", "exp", "silu", "silu_backward", "elu", "elu_backward", "softplus", "softplus_backward")
    ),
}
"""By family, the operators that take longer than the bytes that they move."""
FAMILY = {operator: family for family, operators in FUNCTIONS.items() for operator in operators}
