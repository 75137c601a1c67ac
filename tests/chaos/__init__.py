"""Kill a sweep at random again and again, give the same command again, and compare the end with an undisturbed one.

python -m tests.chaos --kills 40 --seed 1 --out docs/chaos.md
"""
