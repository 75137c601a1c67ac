"""Searches, and every study's finished records as an Optuna study: for its tools, and for what comes next.

What was asked for is kept in the store (`ledger`), what came of it are the records; Optuna's study is made from both
(`trials`), in memory to ask for the next point (`sampler`) and in the journal for other tools (`journal`, `grid`). So
a search goes on after anything, and a journal that is gone is written again (contract C2).

    space.py (above)  what varies and by what it is judged          pure
    points.py         what the records say of each point            pure
    ledger.py         the points that were asked for                pure but for its file
    asking.py         a sweep's side: ask, judge, stop early
    best.py           the best point as a study of its own          pure
    sampler.py, pruning.py, trials.py, journal.py, grid.py          [optuna]
"""
