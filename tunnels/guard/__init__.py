"""The fail-closed guard: what counts or drops plaintext, in and out, from grants alone. No I/O in this package."""
