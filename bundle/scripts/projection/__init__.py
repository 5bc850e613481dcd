"""Where rays run and what they add up to: geometry, attenuation, volume to X-rays (project) and back (lift)."""
