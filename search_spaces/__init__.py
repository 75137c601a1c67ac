"""The studies: one file each; the file's name is the study's name, its first line what `list` shows."""
