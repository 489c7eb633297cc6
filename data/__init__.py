"""From videos to shards to batches: code only, no bytes ever live here."""
