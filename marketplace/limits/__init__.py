"""How much one caller may ask for in a time: policies, counted in Redis. Who has which is in `accounts.tiers`."""
