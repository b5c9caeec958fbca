"""From a store to batches on the device: the data module, samples in memory and streamed, corruption."""
