"""Trainables that train nothing: numbers from a seeded generator with a known effect, at once.

They have the names, config fields, metrics and files that the real ones have, so that what reads records can be
tested against records of any shape, failures included.
"""
