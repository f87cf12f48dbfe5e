"""The embedded stack: PostgreSQL and Redis from wheels, and every part of Kiln, as children of one process.

For laptops, tests and demos. Not for production: there the parts are containers (see deploy/).
"""
