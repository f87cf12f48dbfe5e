"""Files: pictures that customers send, kept for a while to be used in orders."""
