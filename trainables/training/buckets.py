"""How much the engines of several workers hold at a time, in elements; the memory estimate reckons with the same.

Imports no torch.
"""

from __future__ import annotations

REPLICA_BUCKET = 2**24
"""Summed in one message between replicas: 64 MiB in fp32."""

ZERO_BUCKET = 2**25
"""Gathered or reduced in one message under ZeRO: 128 MiB in fp32. DeepSpeed's default takes 2 GiB of every GPU."""

LIVE = 2**28
"""Gathered weights that stage 3 may keep for the way back: 1 GiB in fp32. DeepSpeed's default is 4 GiB."""
