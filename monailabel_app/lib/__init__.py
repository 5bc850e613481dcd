"""What the app in `main.py` is made of."""
