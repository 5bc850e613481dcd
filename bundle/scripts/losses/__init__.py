"""What a stage is trained on: SSIM, perceptual, gradient and reprojection terms, and their sum by stage."""
