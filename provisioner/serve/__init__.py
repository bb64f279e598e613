"""The signing service: holds the credentials, and signs for whoever shows a token. `provision serve` runs it."""
