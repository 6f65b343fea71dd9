"""The OpenAI-compatible server: `residency serve`. Nothing in this package imports torch; docs/server.md is its map."""
