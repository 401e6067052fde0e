"""GPT-2: its parameters, one block, the whole network, first values, the key/value cache."""
