"""Text -> tokens -> windows -> batches. Start with `npgpt.data.text.read`."""
