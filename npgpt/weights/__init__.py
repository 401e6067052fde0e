"""Files <-> named arrays."""
