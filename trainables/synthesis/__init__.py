"""A teacher made of several LoRAs: the mean of their changes, and what can be said of it."""
