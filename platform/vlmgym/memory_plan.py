"""Decides how much memory a learner needs: what it keeps between updates, and what a forward and backward pass adds."""

from __future__ import annotations

from typing import NamedTuple

from vlmgym.model_source import LayerShape, ModelShape
from vlmgym_policies.token_logprobs import CHUNK_LOGITS

BYTES = {"float32": 4, "bfloat16": 2}
_MASTER = 4
"""Bytes of what is trained, of its gradient, and of each of AdamW's two moments."""
WHILE_UPDATING = ("gathered", "activations", "logits")
"""What is there during an update alone."""
_GATHERED_LAYERS = 2
"""Layers of a sharded network that are whole at once: the one at work and the next."""


class LearnerSetup(NamedTuple):
    """How learners hold a model. num_shards: 1 where each holds all. adapter_rank: 0 without adapters.

    in_buckets: gradients are copied to be exchanged, as DDP does. autocast: products in `dtype` from float32 weights.
    """

    dtype: str
    num_shards: int = 1
    is_sharded: bool = False
    in_buckets: bool = False
    train_vision: bool = True
    has_reference: bool = True
    adapter_rank: int = 0
    adapted: tuple[str, ...] | None = None
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_reference: bool = False

    @property
    def autocast(self) -> bool:
        return self.dtype != "float32" and not self.is_sharded


class Batch(NamedTuple):
    """One forward pass: tokens with padding, those of them that are scored, patches of the distinct pictures."""

    num_tokens: int
    num_scored: int
    num_patches: int


def learner_bytes(shape: ModelShape, setup: LearnerSetup, batch: Batch) -> dict[str, float]:
    """Bytes by what they are, at the moment when most is held: as the backward pass begins and gradients of an earlier
    micro-batch are there. P parameters of which T are trained, b bytes of `dtype`, n shards:

        weights       (4 T + b (P - T)) / n
        reference     b P / n            the frozen start model; with adapters it is the policy without them
        gradients     4 T / n            and again in buckets, where learners have copies
        moments       8 T / n            AdamW's two
        gathered      b (what is no layer + two layers), where weights are sharded; b T where autocast casts them
        activations   `layer_bytes` of every token and patch; with checkpointing, inputs of layers and one layer
        logits        `logits_bytes`

    What is offloaded is left out. So are buffers of collectives, CUDA's own memory and fragmentation.
    """
    b, n = BYTES[setup.dtype], setup.num_shards
    trained = trained_params(shape, setup)
    total = shape.num_params + (trained if setup.adapter_rank else 0)
    frozen = total - trained
    keeps_reference = setup.has_reference and not setup.adapter_rank and not setup.offload_reference
    optimizer = 0 if setup.offload_optimizer else trained / n
    parts = {
        "weights": _MASTER * optimizer + (0 if setup.offload_optimizer else b * frozen / n),
        "reference": b * shape.num_params / n if keeps_reference else 0.0,
        "gradients": _MASTER * optimizer * (2 if setup.in_buckets else 1),
        "moments": 2 * _MASTER * optimizer,
        "gathered": _gathered_bytes(shape, setup, trained),
        "activations": activation_bytes(shape, setup, batch),
        "logits": logits_bytes(shape, setup, batch),
    }
    return {name: size for name, size in parts.items() if size}


def trained_params(shape: ModelShape, setup: LearnerSetup) -> int:
    """Numbers that the optimizer moves: all, all but the tower, or those of the adapters."""
    if not setup.adapter_rank:
        return shape.num_params - (0 if setup.train_vision else shape.num_vision_params)
    towers = (shape.text, shape.vision) if setup.train_vision else (shape.text,)
    return sum(
        setup.adapter_rank * tower.num_layers * (inputs + outputs)
        for tower in towers
        for name, (inputs, outputs) in tower.linears.items()
        if setup.adapted is None or name in setup.adapted
    )


def activation_bytes(shape: ModelShape, setup: LearnerSetup, batch: Batch) -> float:
    """What the backward pass needs of all layers, and of what stands before and behind them.

    With checkpointing that is the inputs of all layers; the inside of one comes when the logits have gone.
    """
    b = BYTES[setup.dtype]
    stream = 2 if b == 2 and not setup.autocast else 4
    layers = [(shape.text, batch.num_tokens)]
    layers += [(shape.vision, batch.num_patches)] if setup.train_vision else []
    one = [layer_bytes(layer, b, stream) * count for layer, count in layers]
    if setup.activation_checkpointing:
        inputs = sum(layer.num_layers * stream * layer.hidden_size * count for layer, count in layers)
        total = inputs + max(0.0, max(one) - logits_bytes(shape, setup, batch))
    else:
        total = float(sum(layer.num_layers * size for (layer, _), size in zip(layers, one, strict=True)))
    embedded = (1 + 4 + stream) * shape.text.hidden_size * batch.num_tokens
    scored = b * shape.text.hidden_size * batch.num_scored
    seen = (4 * shape.patch_values + (4 + stream + 3 * b) * shape.vision.hidden_size) * batch.num_patches
    return total + embedded + scored + seen


def layer_bytes(layer: LayerShape, b: int, stream: int) -> float:
    """Of one layer and token (or patch), kept for the backward pass, where scores of attention are not; width h,
    queries q, keys and values k each, inside of the feed-forward network i, b bytes a product, s the residual stream:

        root mean square norm   2 (4 + s + b) h    input in float32, normalised, and output; layer norm 2 (s + b) h
        norms of heads          (4 + s) (q + k)    where queries and keys have them
        attention               b (2 q + 2 k)      rotated queries and keys, values, result; views of one array of all
                                                   three keep that, and results per picture are joined: b 7 h
        feed-forward            4 b i              gate, its SiLU, up, product; 2 b i where there is no gate
    """
    norms = (4 + stream + b if layer.rms_norm else stream + b) * 2 * layer.hidden_size
    heads = (4 + stream) * (layer.query_size + layer.kv_size) if layer.head_norms else 0
    attention = b * (7 * layer.hidden_size if layer.joint_qkv else 2 * layer.query_size + 2 * layer.kv_size)
    return norms + heads + attention + b * layer.intermediate_size * (4 if layer.gated else 2)


def logits_bytes(shape: ModelShape, setup: LearnerSetup, batch: Batch) -> float:
    """Of `token_logprobs`: three arrays of a chunk forward; or two and, in the dtype of products, the gradient of the
    whole output layer backward.
    """
    chunk = 4 * min(batch.num_scored * shape.vocab_size, CHUNK_LOGITS)
    gradient = 0 if setup.adapter_rank else BYTES[setup.dtype] * shape.vocab_size * shape.text.hidden_size
    return max(3 * chunk, 2 * chunk + gradient)


def _gathered_bytes(shape: ModelShape, setup: LearnerSetup, trained: int) -> float:
    b = BYTES[setup.dtype]
    if setup.autocast:
        return b * trained
    if not setup.is_sharded:
        return 0.0
    per_layer = sum(inputs * outputs for inputs, outputs in shape.text.linears.values())
    in_layers = shape.text.num_layers * per_layer
    in_layers += shape.vision.num_layers * sum(i * o for i, o in shape.vision.linears.values())
    return b * (shape.num_params - in_layers + _GATHERED_LAYERS * per_layer)
