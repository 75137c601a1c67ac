"""Where a base model comes from: built in code (`tiny`), out of a wheel (`smollm2`), from a folder, from a hub."""
