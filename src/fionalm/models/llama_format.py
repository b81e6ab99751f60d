"""How Llama-family checkpoints (Llama, Mistral, Qwen2, Qwen3) name what the decoder has: configs and weights.

Two naming schemes are covered: Hugging Face folders and GGUF files. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fionalm.errors import UserError, choice_error
from fionalm.models.config import DecoderConfig, RopeScaling

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# What transformers assumes where a config.json leaves a field out.
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
}

# Own module -> the Hugging Face and the GGUF modules whose rows, stacked, are its rows.
TOP_MODULES = {
    "embed": (["model.embed_tokens"], ["token_embd"]),
    "norm": (["model.norm"], ["output_norm"]),
    "lm_head": (["lm_head"], ["output"]),
}
BLOCK_MODULES = {
    "attn_norm": (["input_layernorm"], ["attn_norm"]),
    "attn.qkv": (
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["attn_q", "attn_k", "attn_v"],
    ),
    "attn.out": (["self_attn.o_proj"], ["attn_output"]),
    "attn.q_norm": (["self_attn.q_norm"], ["attn_q_norm"]),
    "attn.k_norm": (["self_attn.k_norm"], ["attn_k_norm"]),
    "mlp_norm": (["post_attention_layernorm"], ["ffn_norm"]),
    "mlp.up": (["mlp.gate_proj", "mlp.up_proj"], ["ffn_gate", "ffn_up"]),
    "mlp.down": (["mlp.down_proj"], ["ffn_down"]),
}


def weight_sources(parameter: str, *, gguf: bool = False) -> list[str]:
    """Return the checkpoint's tensors that, stacked along axis 0, make the decoder's `parameter`."""
    module, _, kind = parameter.rpartition(".")
    if not module.startswith("blocks."):
        return [f"{name}.{kind}" for name in TOP_MODULES[module][gguf]]
    _, layer, module = module.split(".", 2)
    prefix = f"blk.{layer}" if gguf else f"model.layers.{layer}"
    return [f"{prefix}.{name}.{kind}" for name in BLOCK_MODULES[module][gguf]]


def source_rows(parameter: str, config: DecoderConfig) -> list[int] | None:
    """Return how many of the `parameter`'s rows each of its sources has; None: it has one source."""
    module = parameter.rpartition(".")[0]
    if module.endswith("attn.qkv"):
        return [config.n_heads * config.head_size] + [config.kv_heads * config.head_size] * 2
    return [config.ffn_size] * 2 if module.endswith("mlp.up") else None


def config_from_hugging_face(values: Mapping[str, Any]) -> DecoderConfig:
    """Translate a Llama-family `config.json`.

    A sliding window caps `max_seq_len`: within the window it is full attention, beyond it it would not be.

    Raises:
        UserError: another architecture, or a variant that the decoder does not compute.
    """
    family = str(values.get("model_type"))
    if family not in ARCHITECTURES:
        raise choice_error("model_type", family, ARCHITECTURES)
    values = {**FAMILY_DEFAULTS[family], **values}
    for field, expected in (("hidden_act", "silu"), ("partial_rotary_factor", 1.0)):
        if values.get(field, expected) not in (expected, None):
            raise UserError(f"the config's {field} is {values[field]!r}: the decoder computes only {expected!r}")
    max_seq_len = values["max_position_embeddings"]
    if values.get("sliding_window") and values.get("use_sliding_window", family == "mistral"):
        max_seq_len = min(max_seq_len, values["sliding_window"])
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    attention_bias = family in ("llama", "qwen3") and values.get("attention_bias", False)
    try:
        return DecoderConfig(
            vocab_size=values["vocab_size"],
            d_model=values["hidden_size"],
            n_layers=values["num_hidden_layers"],
            n_heads=values["num_attention_heads"],
            n_kv_heads=values.get("num_key_value_heads"),
            head_dim=values.get("head_dim"),
            d_ff=values["intermediate_size"],
            max_seq_len=max_seq_len,
            norm="rmsnorm",
            norm_eps=values.get("rms_norm_eps", 1e-6),
            rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10000.0))),
            rope_scaling=_rope_scaling(rope, values["max_position_embeddings"]),
            mlp="silu_gated",
            qk_norm=family == "qwen3",
            tie_embeddings=values.get("tie_word_embeddings", False),
            bias=family == "llama" and values.get("mlp_bias", False),
            attention_bias=attention_bias,
            qkv_bias=True if family == "qwen2" else None,
        )
    except KeyError as error:
        raise UserError(f"the {family} config has no {error}, which the decoder's shape needs") from error


def config_to_hugging_face(config: DecoderConfig) -> dict[str, Any] | None:
    """Return the `config.json` of a `transformers` class that computes the same, or None if none does."""
    if (config.norm, config.positions, config.mlp) != ("rmsnorm", "rotary", "silu_gated"):
        return None
    qkv_only = config.has_qkv_bias and not config.has_out_bias
    if config.qk_norm:
        family, possible = "qwen3", not qkv_only and not config.bias
    elif qkv_only:
        family, possible = "qwen2", not config.bias and config.head_size * config.n_heads == config.d_model
    else:
        family, possible = "llama", True
    if not possible or (config.has_out_bias and not config.has_qkv_bias):
        return None
    scaling = config.rope_scaling
    rope: dict[str, Any] = {"rope_type": "default" if scaling is None else scaling.name}
    if scaling is not None:
        rope["factor"] = scaling.factor
        if scaling.name == "llama3":
            rope["low_freq_factor"] = scaling.low_freq_factor
            rope["high_freq_factor"] = scaling.high_freq_factor
            rope["original_max_position_embeddings"] = scaling.original_max_seq_len
    values = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        # transformers 5 reads rope_parameters, 4 the two others.
        "rope_parameters": {"rope_theta": config.rope_theta, **rope},
        "rope_theta": config.rope_theta,
        "rope_scaling": None if scaling is None else rope,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family in ("llama", "qwen3"):
        values["attention_bias"] = config.has_out_bias
    if family == "llama":
        values["mlp_bias"] = config.bias
    return values


def config_from_gguf(fields: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> DecoderConfig:
    """Translate a GGUF file's metadata; the tensors in `shapes` tell which parts the model has.

    Raises:
        UserError: another architecture, or a variant that the decoder does not compute.
    """
    family = fields.get("general.architecture")
    if family not in ("llama", "qwen2", "qwen3"):
        raise choice_error("GGUF architecture", family, ("llama", "qwen2", "qwen3"))
    if "rope_freqs.weight" in shapes or fields.get(f"{family}.rope.scaling.type", "none") != "none":
        raise UserError("the GGUF file scales its rotary frequencies: expected the model's Hugging Face folder instead")
    if f"{family}.expert_count" in fields:
        raise UserError("the GGUF file holds a mixture of experts: expected a dense model")

    def read(key: str, default: Any = None) -> Any:
        return fields.get(f"{family}.{key}", default)

    return DecoderConfig(
        vocab_size=shapes["token_embd.weight"][0],
        d_model=read("embedding_length"),
        n_layers=read("block_count"),
        n_heads=read("attention.head_count"),
        n_kv_heads=read("attention.head_count_kv"),
        head_dim=read("attention.key_length"),
        d_ff=read("feed_forward_length"),
        max_seq_len=read("context_length"),
        norm="rmsnorm",
        norm_eps=read("attention.layer_norm_rms_epsilon"),
        rope_theta=read("rope.freq_base", 10000.0),
        mlp="silu_gated",
        qk_norm="blk.0.attn_q_norm.weight" in shapes,
        tie_embeddings="output.weight" not in shapes,
        bias="blk.0.ffn_down.bias" in shapes,
        attention_bias="blk.0.attn_output.bias" in shapes,
        qkv_bias="blk.0.attn_q.bias" in shapes,
    )


def _rope_scaling(rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    name = rope.get("rope_type", rope.get("type", "default"))
    if name == "default":
        return None
    if name == "linear":
        return RopeScaling("linear", factor=rope["factor"])
    if name == "llama3":
        return RopeScaling(
            "llama3",
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_seq_len=rope.get("original_max_position_embeddings", max_positions),
        )
    raise choice_error("rope type", name, ("default", "linear", "llama3"))
