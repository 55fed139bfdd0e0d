"""The driver's side of one fit: its spec, checks, conversion, attempts and directory."""
