"""Maintenance: the periodic tasks, and the commands that prove the books and repair them."""
