"""The double of Google's clouds: Compute, Cloud Storage, tokens, the metadata server."""
