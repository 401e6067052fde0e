"""Read and write weight files: npgpt's own, OpenAI's, Hugging Face's and llm.c's."""
