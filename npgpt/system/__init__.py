"""The machine, its environment variables and its files."""
