"""Kill a sweep at random again and again, give the same command again, and compare the end with an undisturbed one.

python -m tests.chaos --kills 40 --seed 1 --out docs/chaos.md
"""

SWEEP = (
    "sweep smoke --axis student.seed=1 --set teacher.steps=60 --set student.steps=20 "
    "--place teacher.checkpoint_every=4 --place student.checkpoint_every=3"
)
"""The smoke study with few steps and many checkpoints."""
