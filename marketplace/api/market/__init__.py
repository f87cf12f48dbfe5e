"""The market of adapters over HTTP."""
