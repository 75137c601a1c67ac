"""What of a checkpoint does not fit, found from its header before any weight is read, and what can be done about it.

One cause (another architecture, a quantised file) shows in hundreds of tensors. So all that does not fit is collected
first; the message is one line that names the first tensor, counts the others and says the likely cause.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.checkpoint_files import TensorInfo, read_json
from trainables.targets import Parameter, depth

if TYPE_CHECKING:
    from trainables.export.checkpoint_pair import Checkpoint

FLOATS = ("F64", "F32", "F16", "BF16")
QUANTISED = {
    re.compile(r"\.(qweight|qzeros|g_idx)$"): "GPTQ or AWQ",
    re.compile(r"\.(absmax|nested_absmax|SCB)$|\.quant_state\."): "bitsandbytes",
    re.compile(r"_blocks$"): "MXFP4",
    re.compile(r"\.(weight_scale|weight_scale_inv|input_scale)$"): "scales beside the weights",
}
FUSED = re.compile(r"qkv|c_attn|query_key_value|W_pack", re.IGNORECASE)
SEPARATE = re.compile(r"\.(q_proj|k_proj|v_proj|query|key|value)\.")
ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\.")
SHARD = re.compile(r"-\d+-of-(\d+)\.safetensors$")
BUFFER = re.compile(r"(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias|position_ids|token_type_ids)$")


def misfit(
    checkpoint: Checkpoint, parameters: Sequence[Parameter], *, base: Checkpoint | None = None, targets: Collection[str]
) -> str | None:
    """Say in one line what of `checkpoint` does not fit the base model's `parameters`, or None if it all does.

    `base` is given for the tuned checkpoint: it may have as many rows as it likes where each is one token's, unless
    that tensor is among `targets` (names of weights), and may hold no tensor that the base does not hold.
    """
    useless = unusable(checkpoint.headers, checkpoint.label, checkpoint.folder)
    if useless:
        return useless
    missing = [parameter for parameter in parameters if checkpoint.locate(parameter) is None]
    extra = [] if base is None else unknown(checkpoint, base, parameters)
    lines = [f"the {checkpoint.label} has no tensor {parameter.name}" for parameter in missing]
    lines += [f"the {checkpoint.label} holds {name}, which the base does not" for name in extra]
    lines += _wrong(checkpoint, parameters, targets, may_resize=base is not None)
    if not lines:
        return None
    why = f"; {_cause(checkpoint, base, missing, extra)}" if missing or extra else ""
    more = f" (and {len(lines) - 1} more tensors that do not fit)" if len(lines) > 1 else ""
    return f"{lines[0]}{more}{why} ({checkpoint.folder})"


def unusable(headers: Mapping[str, TensorInfo], label: str, folder: Path) -> str | None:
    """Say in one line why no model's weights can be read from a checkpoint with these headers, or None if they can.

    For what would otherwise look like another model: a quantised one, and what DeepSpeed's ZeRO stage 3 leaves where
    its shards were not gathered, parameters of shape [0].
    """
    scheme = quantisation(headers)
    if scheme:
        return (
            f"the {label} is quantised by {scheme}: give the checkpoint it was made from, or one that was dequantised "
            f"and saved again ({folder})"
        )
    empty = [name for name, info in headers.items() if not info.elements]
    if empty:
        shape = list(headers[empty[0]].shape)
        return (
            f"the {label} holds no values in {len(empty)} of {len(headers)} tensors ({empty[0]} has the shape "
            f"{shape}): it was saved under DeepSpeed ZeRO-3 without gathering its shards; gather them by "
            f"zero_to_fp32.py (option --safe_serialization) and give the result ({folder})"
        )
    return None


def quantisation(names: Iterable[str]) -> str | None:
    """Say how a checkpoint is quantised, with the tensor that tells, if its names betray it."""
    for name in names:
        for pattern, scheme in QUANTISED.items():
            if pattern.search(name):
                return f"{scheme} ({name})"
    return None


def unknown(tuned: Checkpoint, base: Checkpoint, parameters: Sequence[Parameter]) -> list[str]:
    """Return the tensors of the tuned checkpoint that neither the model nor the base's files have."""
    known = {name for parameter in parameters for name in tuned.stored_names(parameter)} | base.headers.keys()
    return [name for name in tuned.headers if name not in known and not BUFFER.search(name)]


def _wrong(
    checkpoint: Checkpoint, parameters: Sequence[Parameter], targets: Collection[str], *, may_resize: bool
) -> Iterator[str]:
    """Yield what is wrong with the shapes and dtypes of the tensors that are there."""
    label = checkpoint.label
    for parameter in parameters:
        name = checkpoint.locate(parameter)
        if name is None:
            continue
        info = checkpoint.headers[name]
        is_resized = may_resize and parameter.has_vocabulary_rows and info.shape[1:] == parameter.shape[1:]
        if info.shape != parameter.shape and not is_resized:
            yield (
                f"{name} of the {label} has shape {_times(info.shape)} and the base model's config says "
                f"{_times(parameter.shape)}: both must be checkpoints of one model"
            )
        elif info.shape != parameter.shape and set(parameter.names) & set(targets):
            yield (
                f"the vocabulary sizes differ: {name} of the {label} is {_times(info.shape)} and the base's "
                f"{_times(parameter.shape)}, and an adapter adds no rows: leave {name} out of the layers"
            )
        if info.dtype not in FLOATS:
            yield f"{name} of the {label} is stored as {info.dtype}: give a checkpoint that is not quantised"


def _cause(checkpoint: Checkpoint, base: Checkpoint | None, missing: Sequence[Parameter], extra: Sequence[str]) -> str:
    if any(ADAPTER.search(name) for name in checkpoint.headers):
        return "it holds a LoRA adapter that is not merged: merge it first (peft: merge_and_unload)"
    if base is None:
        return "its config.json describes another model than its weights: copy all its files again"
    if missing and not extra and all(parameter.has_vocabulary_rows for parameter in missing):
        return "it ties its output head to the embeddings and the base does not: save it with tie_word_embeddings=False"
    lost = _lost_shards(checkpoint)
    if lost and not extra:
        return f"{lost}: copy all its files again"
    causes = list(_differences(checkpoint, base))
    return f"{', and '.join(causes) or 'it may be another model'}: give the base that it was tuned from"


def _lost_shards(checkpoint: Checkpoint) -> str | None:
    """Say how many shards are missing where no index lists them, by the numbers in the names of those that are there.

    "model-00001-of-00008.safetensors" is one of eight.
    """
    files = {info.file.name for info in checkpoint.headers.values()}
    totals = {int(match[1]) for name in files if (match := SHARD.search(name))}
    return f"it has {len(files)} of {max(totals)} shards" if totals and len(files) < max(totals) else None


def _differences(tuned: Checkpoint, base: Checkpoint) -> Iterator[str]:
    types = [_model_type(checkpoint) for checkpoint in (tuned, base)]
    if types[0] != types[1]:
        yield f"its config says {types[0]!r} and the base's {types[1]!r}"
    blocks = [len({depth(name) for name in checkpoint.headers} - {None}) for checkpoint in (tuned, base)]
    if blocks[0] != blocks[1]:
        yield f"it has {blocks[0]} blocks and the base {blocks[1]}"
    is_fused, base_is_fused = (any(map(FUSED.search, checkpoint.headers)) for checkpoint in (tuned, base))
    has_parts, base_has_parts = (any(map(SEPARATE.search, checkpoint.headers)) for checkpoint in (tuned, base))
    if is_fused and not has_parts and base_has_parts:
        yield "it holds query, key and value in one tensor where the base has three"
    if base_is_fused and not base_has_parts and has_parts:
        yield "it holds query, key and value in three tensors where the base has one"


def _model_type(checkpoint: Checkpoint) -> str:
    path = checkpoint.folder / "config.json"
    return str(read_json(path).get("model_type", "nothing")) if path.is_file() else "nothing"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
