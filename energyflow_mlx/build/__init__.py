"""From configuration to objects: models, data, objectives."""
