"""What was answered: base, teacher, untrained SVD and arms side by side on the same questions.

sides.py     answers of the evaluations -> subjects by question; what each arm gains and loses
terminal.py  as a table where the terminal is wide enough, else question by question
files.py     answers.md (what was asked for) and answers.csv (every answer of every run)
"""

from orchestrator.report.answers.files import write
from orchestrator.report.answers.sides import Only, SideBySide, read
from orchestrator.report.answers.terminal import TerminalAnswers

__all__ = ["Only", "SideBySide", "TerminalAnswers", "read", "write"]
