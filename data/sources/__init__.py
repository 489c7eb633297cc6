"""Which videos there are, and what their captions say."""
