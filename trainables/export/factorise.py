"""Factorises the changed layers one after the other, or one per device at a time, each into a file of its own.

A layer whose file is there is not computed again, whichever attempt wrote it. A device holds one layer at most, and
computes it alone (a CPU core with one thread), so that no number depends on how the layers were spread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from trainables.base import InputError, Place, Progress, Stopped
from trainables.export.checkpoint_pair import CheckpointPair
from trainables.export.layer_files import LayerFiles
from trainables.export.ranks import Ranks
from trainables.export.spectrum import Excluded, LayerSpectrum
from trainables.linalg.truncated import TOLERANCE, full_precision, truncated_svd
from trainables.targets import Layout, Linear, depth, layer_types

Task: TypeAlias = tuple[Linear, int]
"""A layer, and how many of its singular triplets to compute."""
FEW = 0.25
"""The share of a layer's triplets that doubling may reach; a full factorisation costs little more than that many."""


def factorise(
    pair: CheckpointPair,
    layout: Layout,
    targets: Sequence[Linear],
    ranks: Ranks,
    folder: Path,
    *,
    place: Place,
    stop_requested: Callable[[], bool],
    log: Callable[[str], None],
) -> Generator[Progress, None, list[LayerSpectrum]]:
    """Leave the factors of every target in `LayerFiles(folder)`; return their spectra in the order of `targets`.

    Every layer gets as many triplets as `ranks` needs to decide, or more. Yields once at the start and after each
    layer; one that is computed again, with more triplets, counts again. When a stop is requested, the layers in
    flight are finished and Stopped says how many are kept. Raises InputError where there are fewer GPUs than the
    place has, or a weight is not finite.
    """
    work = _Work(pair, layout, targets, ranks, LayerFiles(folder, origin(pair)))
    devices = _devices(pair.device, place)
    known = work.kept()
    tasks = work.missing(known)
    done, total = len(known), len(known) + len(tasks)
    if known:
        log(f"{done} of {total} layers are there already")
    yield Progress(done, total)
    while True:
        for layer in _spread(work.factorise, tasks, devices, stop_requested):
            known[layer.linear.name] = layer
            done += 1
            yield Progress(done, total)
        if done < total:
            raise Stopped(f"{len(known)} of {len(targets)} layers are kept; the next attempt goes on from there")
        tasks = work.unfinished(known)
        if not tasks:
            return work.ordered(known)
        total += len(tasks)


def origin(pair: CheckpointPair) -> str:
    """Return a digest of what factors come from: the files of both checkpoints by name, size and time, and how."""
    digest = hashlib.sha256(f"tolerance {TOLERANCE}".encode())
    for checkpoint in (pair.base, pair.tuned):
        digest.update(f"\n{checkpoint.label}".encode())
        for path in sorted({tensor.file for tensor in checkpoint.headers.values()}):
            about = path.stat()
            digest.update(f"\n{path.name} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def excluded(pair: CheckpointPair, layout: Layout, targets: Sequence[Linear]) -> list[Excluded]:
    """Return every tensor that is no target's weight (see `CheckpointPair.excluded`), to the same bits everywhere."""
    with _threads(_threads_for(pair.device)):
        return list(pair.excluded(layout, targets))


class _Work:
    """Which layers are to be computed, and how one is."""

    def __init__(
        self, pair: CheckpointPair, layout: Layout, targets: Sequence[Linear], ranks: Ranks, files: LayerFiles
    ) -> None:
        self.pair, self.targets, self.ranks, self.files = pair, targets, ranks, files
        self.parameters = layout.by_name
        self.types = layer_types([linear.name for linear in targets])
        self.first = ranks.first(targets)

    def kept(self) -> dict[str, LayerSpectrum]:
        """Return the layers that need not be computed: whole files with the same settings and enough triplets."""
        found = {linear.name: self.files.spectrum(linear.name) for linear in self.targets}
        return {
            linear.name: layer
            for linear in self.targets
            if (layer := found[linear.name]) is not None
            and (layer.linear, layer.type, layer.depth) == (linear, self.types[linear.name], depth(linear.name))
            and layer.known >= self.first[linear.name]
        }

    def missing(self, known: Mapping[str, LayerSpectrum]) -> list[Task]:
        """Return the layers that are not known yet."""
        return [(linear, self.first[linear.name]) for linear in self.targets if linear.name not in known]

    def ordered(self, known: Mapping[str, LayerSpectrum]) -> list[LayerSpectrum]:
        """Return the layers in the order of the targets."""
        return [known[linear.name] for linear in self.targets]

    def unfinished(self, known: Mapping[str, LayerSpectrum]) -> list[Task]:
        """Return the layers of which the criterion needs more triplets to decide, and there are more."""
        names = set(self.ranks.unfinished(self.ordered(known)))
        named = [known[linear.name] for linear in self.targets if linear.name in names]
        return [(layer.linear, _more(layer)) for layer in named if not layer.is_complete]

    def factorise(self, task: Task, device: torch.device) -> LayerSpectrum:
        """Compute a layer and write its file; as long as its own measure says too few, with more triplets again."""
        linear, rank = task
        change = dataclasses.replace(self.pair, device=device).change(self.parameters[linear.weight])
        delta = change.delta.T if linear.is_transposed else change.delta
        norms = change.delta_norm, change.weight_norm, change.noise_norm
        while True:
            found = truncated_svd(delta, rank)
            sigma = found.factors.s.cpu().numpy().astype(np.float64)
            where = self.types[linear.name], depth(linear.name)
            layer = LayerSpectrum(linear, *where, sigma, *norms, found.certificate)
            if layer.is_complete or not self.ranks.unfinished([layer]):
                break
            rank = _more(layer)
        self.files.add(layer, found.factors)
        return layer


def _more(layer: LayerSpectrum) -> int:
    """Return how many triplets to compute next: twice as many, or all once those are more than a few."""
    all_of_them = min(layer.linear.out_features, layer.linear.in_features)
    doubled = 2 * layer.known
    return doubled if doubled <= FEW * all_of_them else all_of_them


def _devices(device: torch.device, place: Place) -> list[torch.device]:
    """Return what the layers are spread over: the place's GPUs, or its cores, as many times the CPU."""
    if device.type != "cuda":
        return [device] * max(1, int(place.cpus))
    count = int(place.gpus)
    if count < 2:
        return [device]
    if count > torch.cuda.device_count():
        raise InputError(
            f"the layers were to be spread over {count} GPUs and torch sees {torch.cuda.device_count()}: ask for fewer"
        )
    return [torch.device("cuda", index) for index in range(count)]


def _spread(
    run: Callable[[Task, torch.device], LayerSpectrum],
    tasks: Sequence[Task],
    devices: Sequence[torch.device],
    stop_requested: Callable[[], bool],
) -> Iterator[LayerSpectrum]:
    """Yield the layers as they are done, one on each device at a time; begin no more of them after a stop."""
    threads = _threads_for(devices[0])
    with _threads(threads), full_precision():  # process-wide: not left to threads that enter and leave by turns
        if min(len(devices), len(tasks)) <= 1:
            begun = itertools.takewhile(lambda _: not stop_requested(), tasks)
            yield from (run(task, devices[0]) for task in begun)
        else:
            yield from _in_parallel(run, tasks, devices, threads, stop_requested)


def _in_parallel(
    run: Callable[[Task, torch.device], LayerSpectrum],
    tasks: Iterable[Task],
    devices: Sequence[torch.device],
    threads: int,
    stop_requested: Callable[[], bool],
) -> Iterator[LayerSpectrum]:
    """Run a thread for each device. torch's number of threads belongs to the thread that sets it, so each sets it."""
    idle: queue.SimpleQueue[torch.device] = queue.SimpleQueue()
    for device in devices:
        idle.put(device)

    def run_on_idle(task: Task) -> LayerSpectrum:
        device = idle.get()
        try:
            with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
                return run(task, device)
        finally:
            idle.put(device)

    waiting, running = iter(tasks), set[Future[LayerSpectrum]]()
    with ThreadPoolExecutor(len(devices), "layer", torch.set_num_threads, (threads,)) as pool:
        while True:
            if stop_requested():
                for future in running:
                    future.cancel()  # what a device has begun goes on
            else:  # one for each device, and one at hand
                new = itertools.islice(waiting, len(devices) + 1 - len(running))
                running |= {pool.submit(run_on_idle, task) for task in new}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done if not future.cancelled())


def _threads_for(device: torch.device) -> int:
    """Return how many threads compute one layer: a sum over more than one is another sum in its last bits."""
    return 1 if device.type == "cpu" else torch.get_num_threads()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads in this thread, and in those that it starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
