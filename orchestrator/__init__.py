"""Plan, run, record and compare: light enough to answer at once."""

__version__ = "0.1.0"
