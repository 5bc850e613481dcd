"""X-rays to features to volumes: encoder, attention, the three stages, the cascade."""
