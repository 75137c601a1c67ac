"""The factors of finished layers, one safetensors file each, so that whatever is cut off goes on where it stopped.

A file appears under its name whole or not at all, and carries all that is known of its layer, exactly, with a digest
of everything: what a faulty disk, a copy or another hand damaged counts as absent, like a file that was made from other
weights, and whoever needs the layer computes it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.durable import flush, link
from trainables.export.spectrum import LayerSpectrum
from trainables.linalg.certificate import Certificate
from trainables.linalg.factors import Factors
from trainables.targets import Linear

SUFFIX = ".safetensors"
PARTS = ("u", "s", "vt")
LONGEST_NAME = 150
"""Characters of a file's name before its suffix; file systems allow 255 bytes, temporary names included."""


class Damaged(ValueError):
    """A file is not what was written, or nothing that `LayerFiles` wrote."""


@dataclass(frozen=True)
class _Content:
    """What a file holds."""

    layer: LayerSpectrum
    factors: Factors
    origin: str


class LayerFiles(Mapping[str, Factors]):
    """The finished layers in a folder by module name, each read and checked when it is asked for.

    `origin` says what the factors come from and how they were computed; files of another origin count as absent.
    None takes whatever is there. Several threads or processes may add layers at once.
    """

    def __init__(self, folder: Path, origin: str | None = None) -> None:
        """Name the folder; it need not exist."""
        self.folder, self.origin = folder, origin

    def __getitem__(self, name: str) -> Factors:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found.factors

    def __iter__(self) -> Iterator[str]:
        return iter(self.spectra())

    def __len__(self) -> int:
        return len(self.spectra())

    def spectrum(self, name: str) -> LayerSpectrum | None:
        """Return what is known of a layer, to the last bit; None if it is not there, damaged, or of another origin."""
        found = self._find(name)
        return None if found is None else found.layer

    def spectra(self) -> dict[str, LayerSpectrum]:
        """Return what is known of every layer that is there, by name, sorted by name."""
        found = filter(None, map(self._open, self.folder.glob(f"*{SUFFIX}")))
        return {layer.linear.name: layer for layer in sorted((item.layer for item in found), key=_name)}

    def add(self, layer: LayerSpectrum, factors: Factors) -> None:
        """Write a layer's file, in place of an earlier one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            **{
                part: getattr(factors, part).detach().to("cpu", torch.float32).contiguous() for part in ("u", "s", "vt")
            },
            "sigma": _fp64(layer.sigma),
            "lower": _fp64(layer.certificate.lower),
            "upper": _fp64(layer.certificate.upper),
        }
        about = json.dumps(_about(layer) | {"origin": self.origin or ""})
        path = self._path(layer.linear.name)
        with _renamed_into_place(path) as beside:
            save_file(tensors, beside, {"layer": json.dumps({"about": about, "sha256": _digest(about, tensors)})})
            flush(beside)

    def adopt(self, folder: Path) -> None:
        """Give the files of another folder a name here as well, at no cost where the file system has links.

        Files that vanish meanwhile are left out; the other folder may be gone afterwards.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError), _renamed_into_place(self.folder / path.name) as beside:
                link(path, beside)

    def _path(self, name: str) -> Path:
        return self.folder / f"{file_name(name)}{SUFFIX}"

    def _find(self, name: str) -> _Content | None:
        found = self._open(self._path(name))
        return found if found is not None and found.layer.linear.name == name else None

    def _open(self, path: Path) -> _Content | None:
        try:
            found = _read(path)
        except (Damaged, FileNotFoundError):
            return None
        return found if self.origin in (None, found.origin) else None


def file_name(module: str) -> str:
    """Return a module's name as a file's, without a suffix: quoted as in a URL, long ones cut and told by a digest."""
    quoted = quote(module, safe="")
    if len(quoted) <= LONGEST_NAME:
        return quoted
    digest = hashlib.sha256(module.encode()).hexdigest()[:16]
    return f"{quoted[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def _about(layer: LayerSpectrum) -> dict[str, Any]:
    """Return a layer's numbers and names; JSON keeps every bit of a Python float."""
    return {
        "linear": dataclasses.asdict(layer.linear),
        "type": layer.type,
        "depth": layer.depth,
        "norms": [layer.delta_norm, layer.weight_norm, layer.noise_norm],
        "route": layer.certificate.route,
        "products": layer.certificate.products,
        "failure_probability": layer.certificate.failure_probability,
    }


def _read(path: Path) -> _Content:
    """Return what a file holds; raises Damaged, FileNotFoundError."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads(file.metadata()["layer"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        if stored["sha256"] != _digest(stored["about"], tensors):
            raise Damaged(f"{path} is not what was written")
        return _content(json.loads(stored["about"]), tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise Damaged(f"{path} is no layer's file: {error}") from None


def _content(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Content:
    sigma, lower, upper = (tensors[name].numpy() for name in ("sigma", "lower", "upper"))
    certificate = Certificate(about["route"], lower, upper, about["products"], about["failure_probability"])
    delta_norm, weight_norm, noise_norm = about["norms"]
    linear = Linear(**about["linear"])
    where = about["type"], about["depth"]
    layer = LayerSpectrum(linear, *where, sigma, delta_norm, weight_norm, noise_norm, certificate)
    return _Content(layer, Factors(*(tensors[part] for part in PARTS)), about["origin"])


def _digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def _renamed_into_place(path: Path) -> Iterator[Path]:
    """Give a temporary name, of this thread alone, and then what was written under it the name `path`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _fp64(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))  # a copy: the bounds may be one and the same array


def _name(layer: LayerSpectrum) -> str:
    return layer.linear.name
