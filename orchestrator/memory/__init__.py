"""Bytes that a run takes on its device, in the machine's memory and on disk, known before anything starts.

need.py      what one worker holds in each phase of a run, by part
passes.py    activations of one pass through the model
training.py  teacher and student: weights, gradients, optimiser, as each engine keeps them
stages.py    the need of any run of a plan, from its config, its place and the model's shape
disk.py      artefacts, and checkpoints while a run lasts
limits.py    what there is: a GPU's memory by the place, a machine's by its cgroup
fit.py       what does not fit, and the settings with which it would
"""
