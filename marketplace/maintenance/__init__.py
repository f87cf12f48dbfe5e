"""Maintenance: what is done again and again, and the commands that prove the books and repair them."""
