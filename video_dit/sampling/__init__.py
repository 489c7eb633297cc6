"""From a run folder and prompts to clips."""
