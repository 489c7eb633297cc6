"""From batches to a run folder, on DeepSpeed."""
