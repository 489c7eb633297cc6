"""The built-in data set: captioned clips of moving shapes, and an oracle that reads them back from pixels."""
