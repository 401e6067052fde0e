"""The judge: GPT-2 in plain PyTorch. It knows npgpt's files and nothing else of npgpt."""
