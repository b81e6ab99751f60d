"""Which layer kind each parameter of a model is, found from its module, its place and its shape.

The rules, first match wins:
  1. a glob of `roles` that matches the parameter's name;
  2. a matrix shared by the token table and the readout (tied) is a readout: it must keep the logits O(1),
     which asks for the smaller initialisation and update of its two roles. Learned positions beside it are
     treated alike, so that tokens and positions are added at the same size;
  3. a tensor with at most one dimension (norm gain, bias) is a vector;
  4. the weight of an `nn.Embedding` (tokens, learned positions, types) is an embedding;
  5. the readout is `get_output_embeddings()`, else an `lm_head`, else the last linear layer (unless a model
     with a token table ends on its own width: a backbone without readout);
  6. in a model without token table the first linear layer, whose fan-in is the data's, is an embedding;
  7. every other linear layer (`nn.Linear`, the `Conv1D` of transformers' GPT-2, the input projection of
     `nn.MultiheadAttention`; fused projections too) is hidden.
Anything else (convolutions, stacked experts, bare matrices) is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from fionalm.errors import UserError, choice_error, nearest

from .exponents import LayerKind

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class LayerRole:
    """One parameter and how it takes part in the scaling.

    table: its rows are looked up; linear_bias: the bias of a linear layer; shared_vector: a gain applied to
    every head alike, shorter than the width; output_vector: the readout's bias, which has no width.
    """

    name: str
    parameter: nn.Parameter
    kind: LayerKind
    module_name: str
    fan_in: int
    table: bool = False
    linear_bias: bool = False
    shared_vector: bool = False
    output_vector: bool = False
    padding_row: int | None = None


@dataclass(frozen=True)
class _Place:
    """Where a parameter lives: its module and the module's name."""

    name: str
    parameter: nn.Parameter
    module_name: str
    module: nn.Module


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and torch.compile wrappers."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # pyright: ignore[reportAssignmentType]
        else:
            return model


def clean_name(name: str) -> str:
    """Drop what torch.compile and checkpoint wrappers insert into a module's or parameter's name."""
    return _WRAPPERS.sub("", name)


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every trainable parameter once, under its name without wrappers."""
    return {clean_name(n): p for n, p in unwrap(model).named_parameters() if p.requires_grad}


def layer_roles(
    model: nn.Module, roles: Mapping[str, str] | None = None, *, width: int | None = None
) -> list[LayerRole]:
    """Assign a `LayerKind` to every trainable parameter of `model`, in the model's order.

    Args:
        model: any module; wrappers of torch.compile and DDP are looked through.
        roles: {glob of parameter names: "embedding" | "hidden" | "readout" | "vector"} that overrides the
            rules of this module; the first glob that matches decides.
        width: the model's width; None infers it (`model_width`).

    Raises:
        UserError: names the parameters that no rule covers, or a glob that matches nothing.
    """
    model = unwrap(model)
    chosen = _checked_roles(model, roles or {})
    linears = [m for m in model.modules() if is_linear(m)]
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    width = width or (model_width(model) if linears or tables else 0)
    output = _output_module(model)
    if output is None and linears and not (tables and linear_shape(linears[-1])[1] == width):
        output = linears[-1]
    first = linears[0] if linears and not tables else None
    tied = output is not None and any(output.weight is table.weight for table in tables)

    kinds: list[tuple[_Place, LayerKind]] = []
    unknown: list[str] = []
    for place in _places(model):
        kind = chosen.get(place.name) or _kind(place, output=output, first=first, tied=tied)
        if kind is None:
            unknown.append(f"{place.name} {list(place.parameter.shape)}")
        else:
            kinds.append((place, kind))
    if unknown:
        raise UserError(
            f"no layer kind for {_some(unknown)}: expected embeddings, linear layers, norms and biases; "
            f"say what they are with roles={{{unknown[0].split(' ')[0]!r}: 'hidden'}} (globs work)"
        )
    return [_role(place, kind, output=output, width=width) for place, kind in kinds]


def model_width(model: nn.Module) -> int:
    """Infer the width n: the token table's columns, else the outputs of the first linear layer.

    Raises:
        UserError: the model has neither.
    """
    model = unwrap(model)
    table = _call(model, "get_input_embeddings")
    if not isinstance(table, nn.Embedding):
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        table = max(tables, key=lambda m: m.num_embeddings, default=None)
    if table is not None:
        return table.embedding_dim
    for module in model.modules():
        if is_linear(module):
            return linear_shape(module)[1]
    raise UserError(f"no width found in {type(model).__name__}: expected an embedding or a linear layer")


def fan_in(module: nn.Module, parameter: Tensor) -> int:
    """Number of terms in the sum of one output; for a table, of the product of a readout tied to it."""
    if _is_conv1d(module):
        return parameter.shape[0]
    if isinstance(module, nn.modules.conv._ConvNd):
        return math.prod(parameter.shape[1:])
    return parameter.shape[-1] if parameter.ndim else 1


def is_linear(module: nn.Module) -> bool:
    """Whether a module is an `nn.Linear` or the `Conv1D` of transformers' GPT-2."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer, whichever way its weight is stored."""
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    rows, columns = weight.shape
    return (rows, columns) if _is_conv1d(module) else (columns, rows)


def _kind(place: _Place, *, output: nn.Module | None, first: nn.Module | None, tied: bool) -> LayerKind | None:
    module, parameter = place.module, place.parameter
    if parameter.ndim <= 1:
        return LayerKind.VECTOR
    if isinstance(module, nn.Embedding):
        return LayerKind.READOUT if tied else LayerKind.EMBEDDING
    if isinstance(module, nn.MultiheadAttention):
        return LayerKind.HIDDEN if "proj_weight" in place.name.rsplit(".", 1)[-1] else None
    if not is_linear(module) or place.name.rsplit(".", 1)[-1] != "weight":
        return None
    if module is output and module is first:
        return None  # one linear layer has no width
    if module is output:
        return LayerKind.READOUT
    return LayerKind.EMBEDDING if module is first else LayerKind.HIDDEN


def _role(place: _Place, kind: LayerKind, *, output: nn.Module | None, width: int) -> LayerRole:
    module, parameter = place.module, place.parameter
    vector, table = kind is LayerKind.VECTOR, isinstance(module, nn.Embedding)
    return LayerRole(
        name=place.name,
        parameter=parameter,
        kind=kind,
        module_name=place.module_name,
        fan_in=1 if vector else fan_in(module, parameter),
        table=table,
        linear_bias=vector and is_linear(module) and parameter is getattr(module, "bias", None),
        shared_vector=vector and not is_linear(module) and parameter.numel() < width,
        output_vector=vector and module is output,
        padding_row=module.padding_idx if isinstance(module, nn.Embedding) else None,
    )


def _places(model: nn.Module) -> Iterator[_Place]:
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen and parameter.requires_grad:
                seen.add(id(parameter))
                full = f"{module_name}.{name}" if module_name else name
                yield _Place(clean_name(full), parameter, clean_name(f"{module_name}.").rstrip("."), module)


def _checked_roles(model: nn.Module, roles: Mapping[str, str]) -> dict[str, LayerKind]:
    names = list(named_parameters(model))
    chosen: dict[str, LayerKind] = {}
    for glob, kind in roles.items():
        if kind not in list(LayerKind):
            raise choice_error(f"layer kind for {glob!r}", kind, [k.value for k in LayerKind])
        matched = [name for name in names if fnmatchcase(name, glob)]
        if not matched:
            raise UserError(f"roles glob {glob!r} matches no trainable parameter{nearest(glob, names)}")
        for name in matched:
            chosen.setdefault(name, LayerKind(kind))
    return chosen


def _output_module(model: nn.Module) -> nn.Module | None:
    output = _call(model, "get_output_embeddings")
    if isinstance(output, nn.Module) and is_linear(output):
        return output
    named = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] == "lm_head" and is_linear(m)]
    return named[-1] if named else None


def _call(model: nn.Module, method: str) -> object:
    """Call an accessor that transformers' classes may have but not support."""
    accessor = getattr(model, method, None)
    try:
        return accessor() if accessor is not None else None
    except (AttributeError, RuntimeError):  # what transformers raises where a model has no such layer
        return None


def _is_conv1d(module: nn.Module) -> bool:
    """Recognise transformers' Conv1D (weight [in, out]) by name, also when FSDP2 has subclassed it."""
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
