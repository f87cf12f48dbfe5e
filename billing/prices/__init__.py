"""Prices: what a job costs, and what Tokens are sold for. Knows neither wallets nor payments."""
