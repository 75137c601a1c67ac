"""A model in a local folder: what it must hold, what of it is used, and its copy as an artefact.

Only what decides the model is looked at and copied: config, weights, tokenizer. A README, an optimiser's state or
another format's weights beside them change nothing, the identity included.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.base import InputError, Scalar
from trainables.checkpoint_files import BYTES, INDEX, TensorInfo, index_of, read_headers, read_json, weight_files

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
SETTINGS = ("config.json", "generation_config.json")
WAY_OUT = "save it with model.save_pretrained(FOLDER) and tokenizer.save_pretrained(FOLDER)"


def check_folder(folder: Path) -> dict[str, TensorInfo]:
    """Return the tensors of the model in `folder`; raises InputError for whatever is missing, cut off or unusable."""
    if not folder.exists():
        raise InputError(f"no folder {folder}: give a folder with a model, a hub id (org/name) or a built-in name")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give the folder that holds config.json and the weights")
    tensors = read_headers(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: {WAY_OUT}")
    config = read_json(folder / "config.json")
    if "model_type" not in config:
        raise InputError(f"{folder / 'config.json'} names no model_type, so it is no transformers model: {WAY_OUT}")
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{folder} has no tokenizer (none of {', '.join(VOCABULARIES)}): {WAY_OUT}")
    _check_vocabulary(folder, tensors)
    return tensors


def _check_vocabulary(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    rows, tokens = embedding_rows(tensors), _highest_token(folder)
    if rows is not None and tokens is not None and tokens >= rows:
        raise InputError(
            f"{folder}: the tokenizer has a token {tokens} but the embeddings only {rows} rows; "
            "use the tokenizer that belongs to this model, or model.resize_token_embeddings and save it again"
        )


def embedding_rows(tensors: dict[str, TensorInfo]) -> int | None:
    """Return the number of rows of the input embeddings, or None where no tensor has a name known to be theirs."""
    names = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
    return next((info.shape[0] for name, info in tensors.items() if name.endswith(names)), None)


def _highest_token(folder: Path) -> int | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    content = read_json(folder / "tokenizer.json")
    vocabulary = content.get("model", {}).get("vocab", {})
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    ids += [token["id"] for token in content.get("added_tokens", ())]
    return max(ids, default=None)


def used_files(folder: Path, *, code: bool = False) -> Iterator[Path]:
    """Yield the files that make up the model: settings, tokenizer, weights, and its own code if that is trusted."""
    names = [*SETTINGS, *TOKENIZER_FILES, INDEX]
    yield from (folder / name for name in names if (folder / name).is_file())
    yield from weight_files(folder)
    if code:
        yield from sorted(folder.glob("*.py"))


def fingerprint(folder: Path, of_file: Callable[[Path], str], *, code: bool = False) -> str:
    """Return a digest of names and contents of the files that make up the model; `of_file` gives one file's sha256."""
    hashes = {path.name: of_file(path) for path in used_files(folder, code=code)}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def copy_model(folder: Path, output: Path, *, code: bool = False) -> None:
    """Copy the files that make up the model, and write the index that shards without one lack."""
    tensors = read_headers(folder)
    for path in used_files(folder, code=code):
        shutil.copyfile(path, output / path.name)
    single = (output / "model.safetensors").is_file()
    if not single and not (output / INDEX).is_file():
        (output / INDEX).write_text(json.dumps(index_of(tensors), indent=1))


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a model's folder; raises InputError if it does not load, or has no end-of-text token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder}: the tokenizer does not load ({reason}): {WAY_OUT}") from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{folder}: the tokenizer has no eos_token, so no answer would ever end: set one and {WAY_OUT}"
        )
    return tokenizer


def trusts_remote_code(folder: Path) -> bool:
    """Say whether the user trusted the code of the base model in this artefact (`base_model.json` says so)."""
    about = folder / "base_model.json"
    return about.is_file() and bool(read_json(about).get("trust_remote_code"))


def check_loads(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Raise InputError unless transformers fills every weight of a causal language model from the folder.

    Nothing is held in memory: the model is laid out on torch's `meta` device.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"device_map": "meta", "trust_remote_code": trust_remote_code}
    try:
        _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except (ValueError, OSError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{folder} does not load as a causal language model: {reason}") from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} weights of its model, first {missing[0]}: copy it again")


def describe(folder: Path) -> dict[str, Scalar]:
    """Return the sizes of the model in `folder`: parameters, layers, hidden size, vocabulary, bytes of weights."""
    tensors, config = read_headers(folder), read_json(folder / "config.json")
    config = config.get("text_config", config)
    return {
        "parameters": sum(tensor.elements for tensor in tensors.values()),
        "layers": config.get("num_hidden_layers", config.get("n_layer")),
        "hidden_size": config.get("hidden_size", config.get("n_embd")),
        "vocabulary": config.get("vocab_size", embedding_rows(tensors)),
        "bytes": sum(tensor.elements * BYTES.get(tensor.dtype, 1) for tensor in tensors.values()),
    }
