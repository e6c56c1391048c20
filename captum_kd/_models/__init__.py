"""Running models: hooks, layer activations, token layouts and features."""
