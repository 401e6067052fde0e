"""The process and its surroundings: memory, environment variables, files, streams, terminals."""
