"""Where runs execute: in this process, or on Ray. The only package that imports Ray."""
