"""Reference implementation of GPT-2 in plain PyTorch. It shares no code with npgpt."""
