"""From raw media to features: well-kept libraries do the work, these modules fix the settings and the shapes."""
