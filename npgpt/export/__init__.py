"""Models for other programs: files with their tokenizers, read back and compared."""
