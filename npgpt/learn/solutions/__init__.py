"""Solutions, one file per exercise. A stub is such a file without the code of its functions."""
