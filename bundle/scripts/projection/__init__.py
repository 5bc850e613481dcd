"""Where rays run and what they add up to: geometry, attenuation, projection (project), backprojection (lift)."""
