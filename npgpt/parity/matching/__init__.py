"""The tensors of a port, matched with npgpt's by value and by name, in any layout."""

from npgpt.parity.matching.matcher import Match, match

__all__ = ["Match", "match"]
