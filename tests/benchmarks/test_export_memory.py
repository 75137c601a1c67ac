"""How much memory an export takes beside the files it maps: anonymous pages, sampled while it works.

In a process of its own, on one thread. The baseline is taken with everything imported, the model's layout read and a
first small matrix factorised, so that libraries have their pools. Then a change of 538 MB of weights is factorised at
rank 64, what is no target is measured, and the factors are written: never may the process hold more than `MATRICES`
times its largest target matrix in fp32 above the baseline. The pair is SmolLM2-135M and a made-up change of it;
EXPORT_BASE and EXPORT_TUNED name the folders of a real pair.

    python -m pytest tests/benchmarks/test_export_memory.py -n 0 -m benchmark -s
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.anonymous_memory import rss_anon

MATRICES = 6
RANK = 64
MIB = 2**20


class Sampler:
    """Keeps the largest RssAnon of each phase, looked at every two milliseconds."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.samples = 0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        ended = threading.Event()

        def sample() -> None:
            while not ended.is_set():
                self.peaks[name] = max(self.peaks.get(name, 0), rss_anon())
                self.samples += 1
                ended.wait(0.002)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def measure(base: Path, tuned: Path, folder: Path) -> dict[str, object]:
    """Factorise the pair as `svd_export` does, and return the peaks of its phases above the baseline, in bytes."""
    import torch

    from trainables.base import Place
    from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
    from trainables.export.factorise import excluded, factorise
    from trainables.export.layer_files import LayerFiles
    from trainables.export.ranks import ByRank
    from trainables.linalg.factors import save_factors
    from trainables.linalg.truncated import truncated_svd
    from trainables.targets import read_layout, select

    torch.set_num_threads(1)
    layout = read_layout(base)
    targets = select(layout, "all-linear")
    pair = CheckpointPair(Checkpoint(base, "base"), Checkpoint(tuned, "tuned"), torch.device("cpu"))
    pair.check(layout.parameters, targets=targets)
    truncated_svd(torch.randn(256, 192), 32)
    ranks, place, sampler = ByRank(rank=RANK), Place(), Sampler()
    gc.collect()
    baseline, begun = rss_anon(), time.perf_counter()
    with sampler.phase("factorising"):
        steps = factorise(
            pair, layout, targets, ranks, folder / "layers", place=place, stop_requested=lambda: False, log=print
        )
        for _ in steps:
            pass
    with sampler.phase("what is no target"):
        excluded(pair, layout, targets)
    with sampler.phase("writing the factors"):
        files = LayerFiles(folder / "layers")
        shapes = {item.name: (item.out_features, item.in_features, item.rank(RANK)) for item in targets}
        save_factors(folder, shapes, ((name, files[name]) for name in shapes))
    return {
        "baseline": baseline,
        "above": {name: peak - baseline for name, peak in sampler.peaks.items()},
        "largest": 4 * max(item.out_features * item.in_features for item in targets),
        "layers": len(targets),
        "samples": sampler.samples,
        "seconds": time.perf_counter() - begun,
    }


def measured(base: Path, tuned: Path, folder: Path) -> dict[str, object]:
    """Return what `measure` returns in a process of its own."""
    folder.mkdir()
    code = (
        "import json, sys; from pathlib import Path; from tests.benchmarks.test_export_memory import measure\n"
        "print(json.dumps(measure(*map(Path, sys.argv[1:]))))"
    )
    command = [sys.executable, "-c", code, str(base), str(tuned), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def made_up(base: Path, folder: Path) -> Path:
    """Copy a model with a change in every matrix: a spectrum that decays, and a little noise."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    for path in base.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    tensors, draw = load_file(base / "model.safetensors"), torch.Generator().manual_seed(0)
    for weight in tensors.values():
        if weight.dim() == 2:
            left, right = (torch.randn(size, 48, generator=draw) for size in weight.shape)
            scale = 2e-3 * float(weight.norm()) / weight.numel() ** 0.5
            decay = 0.9 ** torch.arange(48)
            weight += scale * (left * decay) @ right.T
            weight += 0.05 * scale * torch.randn(weight.shape, generator=draw)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def with_vocabulary(size: int, folder: Path, shift: float) -> Path:
    """Write the tiny Llama with so many tokens, every weight shifted."""
    import torch
    from safetensors.torch import load_file, save_file

    from trainables.base_models import tiny

    tiny.build("llama", 0, folder)
    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = torch.ones(size, tensors[name].shape[1])
    save_file({name: tensor + shift for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_embedding_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    size = 250_000
    base, tuned = (with_vocabulary(size, tmp_path / name, shift) for name, shift in (("base", 0.0), ("tuned", 0.5)))
    embedding = 4 * 64 * size
    found = measured(base, tuned, tmp_path / "export")
    assert max(found["above"].values()) <= embedding / 4, "allocators keep a few megabytes, and the embedding has 61"


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_an_export_holds_a_few_matrices_however_large_the_checkpoints(tmp_path: Path) -> None:
    from tests.trainables.driver import drive

    if "EXPORT_BASE" in os.environ:
        base, tuned = (Path(os.environ[name]) for name in ("EXPORT_BASE", "EXPORT_TUNED"))
    else:
        base = tmp_path / "base"
        drive("base_model", {"source": "smollm2-135m"}, base)
        tuned = made_up(base, tmp_path / "tuned")
    found = measured(base, tuned, tmp_path / "export")
    limit = MATRICES * found["largest"]
    phases = ", ".join(f"{name} {peak / MIB:.1f}" for name, peak in found["above"].items())
    print(
        f"\n{found['layers']} layers in {found['seconds']:.1f} s, {found['samples']} samples; RssAnon above a baseline "
        f"of {found['baseline'] / MIB:.0f} MiB: {phases} MiB; the limit is {MATRICES} x {found['largest'] / MIB:.2f} = "
        f"{limit / MIB:.1f} MiB"
    )
    assert max(found["above"].values()) <= limit
