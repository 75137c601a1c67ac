"""How often the whole statistical path errs, covers and detects: simulated, seeded; docs/error_rates.md is its table.

worlds.py    where losses come from: noise, learning rates, teachers
path.py      from losses to verdicts, by the report's own code
measure.py   the rates, counted
__main__.py  python -m tests.error_rates > docs/error_rates.md
"""
