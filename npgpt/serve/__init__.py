"""The server of `npgpt serve`: OpenAI's completions protocol over one batch of all clients.

It needs starlette and uvicorn: the extra `[serve]`.
"""
