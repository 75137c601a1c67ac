"""The report of a search: what is best, what matters, what trades off, and how the search got there.

write(plan, store, folder)   report.html, report.md, report.json, points.csv, results.csv, best.py, figures/
terminal(folder)             what ends a sweep on the terminal, from report.json

outcome.py    points, best, importances as data          [optuna for the importances]
figures.py    history, importance, front, slices         [matplotlib]
writer.py     the pages
terminal.py
"""
