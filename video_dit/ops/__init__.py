"""Pure tensor operations and the layers that every model shares."""
