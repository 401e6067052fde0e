"""A page in the browser that shows how GPT-2 computes, forwards and backwards: `npgpt play`.

Needs the packages of the extra `[play]`. Numbers come from `npgpt.explain`; this package checks
requests, computes one at a time, and sends the numbers. `static/` is the page.
"""
