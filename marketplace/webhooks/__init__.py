"""What customers are told: by webhooks at endpoints of theirs, at the address of an order, and by e-mail."""
