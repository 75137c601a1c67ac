"""What `dataset` is made of: reading, formats, generated tasks, splits, tokens. Nothing here needs torch."""
