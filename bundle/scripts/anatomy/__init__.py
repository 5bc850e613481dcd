"""What a body is and how bodies differ: its mask, tissues, deformation."""
