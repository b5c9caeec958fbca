"""A room per data set: its card and data module, and whatever only it has (splits, download, importers, generators)."""
