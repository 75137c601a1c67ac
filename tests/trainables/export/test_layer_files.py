"""Files of finished layers: exact, whole or absent, and shared between attempts at no cost."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.export.layer_files import SUFFIX, LayerFiles, file_name
from trainables.export.spectrum import LayerSpectrum
from trainables.linalg.certificate import Certificate
from trainables.linalg.factors import Factors
from trainables.linalg.truncated import truncated_svd
from trainables.targets import Linear

NAMES = ["model.layers.0.q_proj", "h.0.ü/../c", "..", "a b%20\n", "x" * 400, "x" * 400 + "y", "CON", ".hidden"]


def made(name: str = "model.layers.0.q_proj", rank: int = 3, seed: int = 0) -> tuple[LayerSpectrum, Factors]:
    """A layer whose numbers need all their bits."""
    draw = torch.Generator().manual_seed(seed)
    found = truncated_svd(torch.randn(7, 5, generator=draw), rank)
    bounds = Certificate("golub-kahan", np.array([1 / 3, 0.1, 5e-324][:rank]), np.array([2 / 3] * rank), 17, 1e-17)
    sigma = found.factors.s.numpy().astype(np.float64) * (1 + 1e-13)
    layer = LayerSpectrum(Linear(name, 7, 5, True), "q_proj", 0, sigma, 0.1 + 0.2, 1e300, 5e-324, bounds)
    return layer, found.factors


def same(one: LayerSpectrum, other: LayerSpectrum) -> bool:
    """Say whether two layers agree to the last bit."""
    arrays = [(one.sigma, other.sigma)]
    arrays += [(getattr(one.certificate, part), getattr(other.certificate, part)) for part in ("lower", "upper")]
    plain = [
        dataclasses.replace(layer, sigma=None, certificate=dataclasses.replace(layer.certificate, lower=0, upper=0))
        for layer in (one, other)
    ]
    return plain[0] == plain[1] and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in arrays)


def test_a_layer_comes_back_to_the_last_bit_whatever_its_name(tmp_path):
    files = LayerFiles(tmp_path / "layers")
    layers = {name: made(name, seed=seed) for seed, name in enumerate(NAMES)}
    for layer, factors in layers.values():
        files.add(layer, factors)
    again = LayerFiles(tmp_path / "layers")
    assert set(again) == set(again.spectra()) == set(NAMES)
    for name, (layer, factors) in layers.items():
        assert same(again.spectrum(name), layer)
        assert same(again.spectra()[name], layer)
        for part in ("u", "s", "vt"):
            assert torch.equal(getattr(again[name], part), getattr(factors, part))
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "layers"}
    assert len({file_name(name) for name in NAMES}) == len(NAMES)


def test_other_readers_find_the_factors_under_plain_names(tmp_path):
    from safetensors.torch import load_file

    layer, factors = made()
    LayerFiles(tmp_path).add(layer, factors)
    tensors = load_file(tmp_path / f"model.layers.0.q_proj{SUFFIX}")
    assert torch.equal(tensors["u"], factors.u)
    assert torch.equal((tensors["u"] * tensors["s"]) @ tensors["vt"], factors.delta())


def test_factors_that_are_views_or_of_another_precision_are_written_whole(tmp_path):
    layer, factors = made(rank=2)
    parts = torch.cat([factors.u.T.flatten(), factors.s, factors.vt.flatten()])
    views = Factors(parts[:14].view(2, 7).T, parts[14:16].double(), parts[16:].view(2, 5))
    bounds = dataclasses.replace(layer.certificate, lower=layer.sigma, upper=layer.sigma)
    LayerFiles(tmp_path).add(dataclasses.replace(layer, certificate=bounds), views)
    found = LayerFiles(tmp_path)[layer.linear.name]
    assert torch.equal(found.delta(), factors.delta())
    assert found.s.dtype == torch.float32


def test_a_file_cut_off_or_changed_anywhere_counts_as_absent(tmp_path):
    files = LayerFiles(tmp_path)
    layer, factors = made()
    files.add(layer, factors)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        assert not files.spectra(), f"cut off after {place} bytes"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = files.spectrum(layer.linear.name)
        # Blanks that fill up the header may change, and so may a name that is only compared.
        assert found is None or same(found, layer), f"changed at {place}"
        if found is not None:
            assert torch.equal(files[layer.linear.name].delta(), factors.delta())
    path.write_bytes(whole)
    assert same(files.spectrum(layer.linear.name), layer)


def test_what_others_left_in_the_folder_is_no_layer(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"u": torch.ones(2)}, tmp_path / "other.safetensors", {"layer": "{}"})
    (tmp_path / f".a{SUFFIX}.123").write_text("what a killed writer leaves")
    layer, factors = made("b")
    LayerFiles(tmp_path).add(layer, factors)
    (tmp_path / f"b{SUFFIX}").rename(tmp_path / f"c{SUFFIX}")  # a layer under another's name
    files = LayerFiles(tmp_path)
    assert "c" not in files
    assert files.spectrum("model") is None
    with pytest.raises(KeyError):
        files["other"]
    assert not LayerFiles(tmp_path / "nowhere")


def test_files_of_another_origin_count_as_absent_until_they_are_replaced(tmp_path):
    layer, factors = made()
    LayerFiles(tmp_path, "base A, teacher A").add(layer, factors)
    other = LayerFiles(tmp_path, "base A, teacher B")
    assert layer.linear.name not in other
    assert not other.spectra()
    newer, newer_factors = made(rank=2, seed=1)
    other.add(newer, newer_factors)
    assert same(other.spectrum(layer.linear.name), newer)
    assert same(LayerFiles(tmp_path).spectrum(layer.linear.name), newer)
    assert not LayerFiles(tmp_path, "base A, teacher A")


def test_adopted_files_outlive_the_folder_they_came_from_and_take_no_room(tmp_path):
    first, second = LayerFiles(tmp_path / "1" / "layers"), LayerFiles(tmp_path / "2" / "layers")
    layer, factors = made()
    first.add(layer, factors)
    (path,) = first.folder.iterdir()
    second.adopt(first.folder)
    second.adopt(first.folder)
    assert path.samefile(second.folder / path.name)
    newer, newer_factors = made(seed=1)
    second.add(newer, newer_factors)
    assert same(first.spectrum(layer.linear.name), layer), "an earlier attempt's file was written into"
    second.adopt(first.folder)
    path.unlink()
    assert same(second.spectrum(layer.linear.name), layer)
    second.adopt(tmp_path / "gone")
    assert [file.name for file in second.folder.iterdir()] == [path.name]


def test_a_writer_killed_at_any_moment_leaves_whole_files_only(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.trainables.export.test_layer_files import LayerFiles, made\n"
        "files, number = LayerFiles(Path(sys.argv[1])), 0\n"
        "while True:\n    files.add(*made(str(number), seed=number)); number += 1\n    print(number, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as writer:
        said = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
    files = LayerFiles(tmp_path)
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == len(files) >= said[-1]
    for name, layer in files.spectra().items():
        assert same(layer, made(name, seed=int(name))[0])
