"""Spectra of whole models, made up from matrices that numpy draws, so that numpy's own SVD is there to compare with."""

from __future__ import annotations

import numpy as np

from trainables.export.spectrum import LayerSpectrum
from trainables.linalg.certificate import Certificate
from trainables.targets import Linear, depth, layer_types

GPT2 = {"h.{}.attn.c_attn": (18, 6), "h.{}.attn.c_proj": (6, 6), "h.{}.mlp.c_fc": (24, 6), "h.{}.mlp.c_proj": (6, 24)}
LLAMA = {
    "model.layers.{}.self_attn.q_proj": (16, 16),
    "model.layers.{}.self_attn.k_proj": (4, 16),
    "model.layers.{}.self_attn.v_proj": (4, 16),
    "model.layers.{}.self_attn.o_proj": (16, 16),
    "model.layers.{}.mlp.gate_proj": (32, 16),
    "model.layers.{}.mlp.up_proj": (32, 16),
    "model.layers.{}.mlp.down_proj": (16, 32),
}


def deltas(shapes=None, *, blocks=2, scale=0.02, seed=0):
    """Return layer names with matrices of fast falling spectra."""
    draw = np.random.default_rng(seed)
    found = {}
    for index in range(blocks):
        for name, (rows, columns) in (shapes or GPT2).items():
            full = min(rows, columns)
            left, right = draw.normal(size=(rows, full)), draw.normal(size=(full, columns))
            found[name.format(index)] = scale * (left / np.arange(1, full + 1)) @ right
    return found


def layers(changes, rank, *, noise=0.0, weight=1.0, route="exact", slack=1e-6, chance=0.0):
    """Return their spectra up to a rank, with bounds at a relative distance of `slack`."""
    types = layer_types(list(changes))
    found = []
    for name, delta in changes.items():
        sigma = np.linalg.svd(delta, compute_uv=False)[:rank]
        certificate = Certificate(route, sigma * (1 - slack), sigma * (1 + slack), 0, chance)
        linear = Linear(name, *delta.shape)
        norm = float(np.linalg.norm(delta))
        found.append(LayerSpectrum(linear, types[name], depth(name), sigma, norm, weight, noise, certificate))
    return found
