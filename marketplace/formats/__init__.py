"""How the web pages write dates: Django finds `<language>/formats.py` here."""
