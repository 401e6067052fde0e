"""Download GPT-2's weights and The Verdict: resumable, verified, kept in a cache directory."""
