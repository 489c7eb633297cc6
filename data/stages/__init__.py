"""What becomes of a video, stage by stage; each module is one stage and knows nothing of who runs it."""
