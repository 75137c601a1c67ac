"""Text without questions: there is nothing to judge, the loss says it all."""

from __future__ import annotations

from trainables.tasks import Task

TASK = Task("text", "plain text, no right answer", None)
